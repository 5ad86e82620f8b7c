//! A cache that is switched off by its URL, as a service's configuration might say: the code that uses it stays as it is.

use larder::{Cache, Ttl};

fn price(cache: &Cache, item: &str) -> larder::Result<u32> {
    let prices = cache.typed::<u32>(1);
    // Slow, one imagines.
    prices.get_or_set_with(item, Ttl::mins(5), |_| Ok(item.bytes().map(u32::from).sum()))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let on = Cache::from_url(&format!("file://{}/prices?max_entries=10k", dir.path().display()))?;
    let off = Cache::from_url("null://")?;
    for cache in [&on, &off] {
        assert_eq!(price(cache, "tea")?, price(cache, "tea")?);
        let stats = cache.stats()?;
        println!("{}: {} hits, {} misses", cache.capabilities().store, stats.hits, stats.misses);
    }
    assert!(on.stats()?.hits > 0 && off.stats()?.hits == 0);
    // It refuses what the others refuse, so that a mistake shows.
    assert!(off.set("", "no key", Ttl::Never).is_err());
    Ok(())
}
