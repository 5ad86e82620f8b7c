"""A script that asks a slow service, and asks it once a day however often it runs: `python script.py`."""

from larder_cache import Cache

cache = Cache("exchange-rates", max_bytes="10MiB", default_ttl="1d")


def fetch_rates() -> dict[str, float]:
    """Stands for a request that takes seconds."""
    print("asking the service")
    return {"EUR": 1.0, "CHF": 0.94}


# Scripts that run at once ask once; if the service fails, yesterday's answer is good for a week.
rates = cache.get_or_set("rates", fetch_rates, stale_if_error="7d")
print(f"1 EUR = {rates['CHF']} CHF")
print(f"runs so far: {cache.incr('runs', initial=1, ttl='never')}")
