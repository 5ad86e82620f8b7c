"""Processes that share a cache: handles go to them as arguments, and each key is computed once by one of them."""

import multiprocessing

from larder_cache import Cache


def work(cache: Cache[int], numbers: list[int]) -> None:
    """What each process does."""
    for number in numbers:

        def square() -> int:
            cache.incr("computed", initial=1)
            return number * number

        cache.get_or_set(f"square:{number}", square)


if __name__ == "__main__":
    shared: Cache[int] = Cache("squares")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(shared, list(range(100)))) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print(f"4 processes computed {shared['computed']} squares together")
