"""A back end for joblib, for code that uses joblib, such as scikit-learn."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

from joblib.parallel import AutoBatchingMixin, ParallelBackendBase, register_parallel_backend

from condorpool.interface.executor import Executor
from condorpool.interface.pool import workload_of


class CondorPoolBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Make the calls of `joblib.Parallel` as HTCondor jobs.

    Parameters
    ----------
    **arguments
        The arguments of `Executor` except ``max_workers``, which is ``n_jobs``.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._arguments = arguments
        self._executor: Executor | None = None
        self._workers: int | None = None

    def _start(self, n_jobs: int | None) -> Executor:
        if self._executor is None:
            self._workers = None if n_jobs is None or n_jobs < 0 else n_jobs
            self._executor = Executor(self._workers, **self._arguments)
        return self._executor

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the most jobs at once; for -1 the number of CPUs of the HTCondor pool."""
        if n_jobs == 0:
            raise ValueError("n_jobs=0: it must be at least 1, or -1 for all CPUs")
        if n_jobs is not None and n_jobs > 0:
            return n_jobs
        return workload_of(self._start(n_jobs).pool).count_cpus()

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Make the executor for a `Parallel` that starts."""
        self.parallel = parallel
        self._start(n_jobs)
        return self.effective_n_jobs(n_jobs)

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None
    ) -> concurrent.futures.Future[Any]:
        """Submit a batch of calls."""
        future = self._start(self._workers).submit(func)
        if callback:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: concurrent.futures.Future[Any]) -> Any:
        """Return what a batch of calls returned, or raise what it raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: ARG002 - a new pool is quickly made
        """Remove all jobs: their results are not needed."""
        if self._executor:
            self._executor.pool.terminate()
        self.terminate()

    def terminate(self) -> None:
        """End the jobs and clean up."""
        if self._executor:
            self._executor.shutdown()
            self._executor = None


register_parallel_backend("condorpool", CondorPoolBackend)
