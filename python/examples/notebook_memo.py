"""A notebook's slow cells, computed once and kept over restarts of the kernel."""

# %%
from larder_cache import Cache

cache = Cache("notebook-cache", max_bytes="4GiB")


# %%
@cache.memoize(name="simulate-v1", ignore=["progress"])
def simulate(steps: int, seed: int = 0, progress: bool = False) -> list[float]:
    """Change `name` when you change what it computes."""
    print(f"simulating {steps} steps")
    value, path = float(seed), []
    for step in range(steps):
        value += (step * 7919 % 13 - 6) / 6
        path.append(value)
    return path


# %%
path = simulate(1000, progress=True)
print(f"ends at {path[-1]:.2f}")

# %%
again = simulate(1000)  # from the cache, in this kernel and in the next one
print(simulate.cache_info())  # type: ignore[attr-defined]
