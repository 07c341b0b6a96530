"""A few processes that work together, forked (importing torch anew would take most of the time), and what they gave."""

import multiprocessing
import os
import pickle
import queue
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

from interp.train.distributed import Parallel

TIMEOUT = 60.0


def together(
    work: Callable[..., Any], *arguments: Any, size: int = 2, latents: int = 1, timeout: float = 30.0
) -> list[Any]:
    """`work(parallel, *arguments)` in each of `size` processes; what each returned, or the exception that it raised."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results: Any = context.Queue()
    made = [
        context.Process(target=_run, args=(work, arguments, rank, size, latents, port, timeout, results))
        for rank in range(size)
    ]
    for process in made:
        process.start()
    found: dict[int, Any] = {}
    try:
        while len(found) < sum(process.exitcode in (None, 0) for process in made):
            try:
                rank, value = results.get(timeout=0.2)
                found[rank] = pickle.loads(value)
            except queue.Empty:
                if not any(process.is_alive() for process in made) and results.empty():
                    break
    finally:
        for process in made:
            process.join(TIMEOUT)
            if process.is_alive():
                process.kill()
    return [found.get(rank) for rank in range(size)]


def _run(
    work: Callable[..., Any],
    arguments: tuple,
    rank: int,
    size: int,
    latents: int,
    port: int,
    timeout: float,
    results: Any,
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    try:
        parallel = Parallel.from_environment(latents=latents, timeout=timeout)
        value = work(parallel, *arguments)
        parallel.close()
    except BaseException as error:
        value = error if type(error).__module__.startswith("interp") else traceback.format_exc()
    results.put((rank, pickle.dumps(value)))  # plain: torch would share memory with a process that ends
