"""The two back ends on which every case of the contract runs."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os

import pytest

import condorpool

# Neither forks a process that has threads, which newer Pythons warn of.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["numpy", "pytest", "condorpool"])


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Let the cases of a module share jobs: these end when the environment changes."""
    name = os.environ.pop("PYTEST_CURRENT_TEST")
    try:
        return (yield)
    finally:
        os.environ["PYTEST_CURRENT_TEST"] = name


@pytest.fixture(scope="module", params=["multiprocessing", "condorpool"])
def backend(request):
    """Name the package that the case runs on; `condorpool_only` leaves one."""
    return request.param


@pytest.fixture(scope="module")
def where(backend, request, tmp_path_factory):
    """Return the arguments by which condorpool finds the tests' HTCondor."""
    if backend == "multiprocessing":
        yield {}
        return
    htcondor = request.getfixturevalue("htcondor")
    empty_queue = request.getfixturevalue("empty_queue")
    yield {"personal": htcondor, "submitdir": tmp_path_factory.mktemp("contract"), "linger": 2}
    empty_queue()


@pytest.fixture(scope="module")
def pool_class(backend, where):
    """Return what stands for ``Pool``, with multiprocessing's arguments."""
    factory = CONTEXT.Pool if backend == "multiprocessing" else condorpool.Pool
    return functools.partial(factory, **where)


@pytest.fixture
def make_pool(pool_class):
    """Make pools that are terminated after the test."""
    pools = []

    def make(*arguments, **keywords):
        pools.append(pool_class(*arguments, **keywords))
        return pools[-1]

    yield make
    for pool in pools:
        pool.terminate()
        pool.join()


@pytest.fixture(scope="module")
def pool(pool_class):
    """Return a pool of two that the cases of a module share."""
    pool = pool_class(2)
    yield pool
    pool.terminate()
    pool.join()


@pytest.fixture(scope="module")
def executor_class(backend, where):
    """Return what stands for ``ProcessPoolExecutor``."""
    if backend == "condorpool":
        return functools.partial(condorpool.Executor, **where)
    return functools.partial(concurrent.futures.ProcessPoolExecutor, mp_context=CONTEXT)


@pytest.fixture(scope="module")
def executor(executor_class):
    """Return an executor of two that the cases of a module share."""
    with executor_class(2) as executor:
        yield executor
