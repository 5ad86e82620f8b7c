//! A cache in a program on Tokio: many tasks want one slow answer, and one of them asks for it.
//!
//! Run with `cargo run --example asynchronous --features tokio`.

#[cfg(feature = "tokio")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use larder::{AsyncCache, Cache, Ttl};

    let dir = tempfile::tempdir()?;
    let cache = AsyncCache::open(Cache::file(dir.path().join("app"))).await?;
    let asked = Arc::new(AtomicU32::new(0));
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let (cache, asked) = (cache.clone(), asked.clone());
        tasks.push(tokio::spawn(async move {
            let rate = cache.get_or_set_with("rate:EUR", Ttl::mins(10), async move |_| {
                // Here a service would be asked.
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                asked.fetch_add(1, Relaxed);
                Ok("1.0931")
            });
            rate.await
        }));
    }
    for task in tasks {
        assert_eq!(&*task.await??, b"1.0931");
    }
    println!("20 tasks, asked {} time", asked.load(Relaxed));
    assert_eq!(asked.load(Relaxed), 1);

    // Whatever has no asynchronous form runs on a thread that may block.
    let keys = cache.blocking(|cache| cache.entries()?.map(|entry| Ok(entry?.key)).collect::<larder::Result<Vec<_>>>());
    assert_eq!(keys.await?, [b"rate:EUR"]);
    Ok(())
}

#[cfg(not(feature = "tokio"))]
fn main() {
    println!("this build has no AsyncCache; add --features tokio");
}
