#!/bin/sh
# Find a Python on the execution point and run the program with it.
#   launch.sh PYTHON VERSION OUTCOME ARGUMENT...
# PYTHON is a path, or a name on the PATH.  Unless VERSION (such as 3.11) is empty,
# pythonVERSION and python3 are tried next.
python=$1 version=$2 outcome=$3
shift 3

# HTCondor holds a job whose output file is missing, so start with an empty outcome.
# An outcome from an earlier run of this job is kept.
[ -z "$outcome" ] || [ -s "$outcome" ] || : > "$outcome" || exit 73

for candidate in "$python" ${version:+"python$version" python3}; do
    command -v "$candidate" > /dev/null 2>&1 && exec "$candidate" "$@"
done
echo "condorpool: there is no Python '$python'${version:+, python$version or python3} on $(uname -n):" \
    "give the jobs another python= or a container_image" >&2
exit 72
