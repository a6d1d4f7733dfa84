"""Environment variables that jobs get only if users name them: they can act for the user elsewhere.

Which variables these are is decided here, by their names alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache

#: Variables that stay at home, in the syntax of the submit command ``getenv``: an asterisk stands for
#: any text, and upper and lower case are alike.
SECRET = tuple(
    """JUPYTERHUB_* JUPYTER_* JPY_* SSH_* DBUS_* GPG_* KUBERNETES_* KUBECONFIG
    AWS_* AZURE_* ARM_CLIENT_* GOOGLE_APPLICATION_CREDENTIALS GITHUB_* GITLAB_* VAULT_* OPENAI_*
    *TOKEN* *SECRET* *PASSWORD* *PASSWD* *PASSPHRASE* *CREDENTIAL* *API_KEY* *APIKEY* *ACCESS_KEY*
    *PRIVATE_KEY* *_KEY *_PASS *_PWD *_PAT *_JWT *_DSN *AUTH_CONFIG DATABASE_URL""".split()
)

#: Variables that are sent although they look like one: jobs need them, and they contain the name of
#: a file, or a setting.  So are ``X509_USER_PROXY`` and ``KRB5CCNAME``, which look like none.
HARMLESS = ("BEARER_TOKEN_FILE", "SCITOKENS_FILE", "TOKENIZERS_*")

#: Variables that are for the kernel only, and of use to no job.
_KERNELS_OWN = ("_CONDOR_*", "MPLBACKEND")

# The last frame of a remote traceback is that of os.environ.
_READS_ENVIRONMENT = re.compile(r'File "(<frozen os>|.*[/\\]os\.py)", line \d+, in \w+\s[^"]*\Z')


def is_secret(name: str) -> bool:
    """Return whether a variable is sent only if the user names it."""
    return _is_among(name, SECRET) and not _is_among(name, HARMLESS)


def environment_to_send(named: Iterable[str], getenv: str | None = None) -> dict[str, str]:
    """Return the variables that jobs get from the pool's private file.

    Parameters
    ----------
    named
        Secret ones that the user asks for, by name or pattern.
    getenv
        The user's submit command of this name; empty if the user sets the environment otherwise.
        None sends all variables.
    """
    asked = tuple(named)
    return {name: value for name, value in os.environ.items() if _is_sent(name, asked, getenv)}


@lru_cache(maxsize=10_000)  # asked at every call
def _is_sent(name: str, named: tuple[str, ...], getenv: str | None) -> bool:
    words = ["*"] if getenv is None else _words(getenv)
    refused = [word[1:] for word in words if word[:1] == "!"]
    # Secret ones that are named in full go this way, too: everybody can read the job ad.
    if _is_among(name, [*named, *(word for word in words if "*" not in word)]):
        return True
    is_refused = is_secret(name) or _is_among(name, [*refused, *_KERNELS_OWN])
    return _is_among(name, words) and not is_refused


def public(getenv: str) -> str:
    """Return a value of the submit command ``getenv`` without the variables that are secret."""
    words = _words(getenv)
    return ", ".join([*words, *(f"!{pattern}" for pattern in SECRET)]) if words else getenv


def explanation(error: BaseException, traceback: str) -> str:
    """Return why a call did not find a variable, and the cure; empty for other errors."""
    name = error.args[0] if type(error) is KeyError and error.args else None
    is_ours = type(name) is str and name in os.environ and is_secret(name)
    if not (is_ours and _READS_ENVIRONMENT.search(traceback)):
        return ""
    return (
        f"{name} is set here, but jobs do not get variables that look like secrets. "
        f"Pool(secrets=[{name!r}]) sends it in a private file."
    )


def _is_among(name: str, patterns: Iterable[str]) -> bool:
    return _regex(tuple(patterns)).fullmatch(name) is not None


@lru_cache
def _regex(patterns: tuple[str, ...]) -> re.Pattern[str]:
    parts = (re.escape(pattern).replace(r"\*", ".*") for pattern in patterns)
    return re.compile("|".join(parts) or "(?!)", re.IGNORECASE | re.DOTALL)


def _words(getenv: str) -> list[str]:
    """Return the names and patterns of a ``getenv``; an exclamation mark refuses one."""
    words = [word for word in re.split(r"[,;\s]+", getenv) if word]
    if len(words) == 1 and words[0].lower() in {"true", "false"}:
        return ["*"] if words[0].lower() == "true" else []
    return words
