use std::io::Write;

use larder::{Cache, Layout, Ttl};

use super::limits::fits_on_disk;
use crate::support::{counts_match, get, temp_dir, temporary_files};

/// 120 times a set of 3 MB was killed in the middle: 141 MiB lay in a cache of 16 MiB, which no `stats` told of and no set
/// removed, until a prune.
#[test]
fn what_killed_writers_leave_goes_with_the_next_set_or_opening() {
    for layout in [Layout::Indexed, Layout::Files] {
        let dir = temp_dir();
        let open = || Cache::file(dir.path().join("cache")).layout(layout).max_bytes(4 << 20).open().expect("a cache");
        let killed = |cache: &Cache, key: &str| {
            let (cache, key) = (cache.clone(), key.to_owned());
            let child = larder::fault::fork(move || {
                let mut writer = cache.writer(key, Ttl::Never).expect("a writer");
                writer.write_all(&vec![7; 300_000]).expect("a piece");
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                1
            });
            assert_eq!(larder::fault::wait_for(child.expect("a fork")).expect("its end"), Err(libc::SIGKILL));
        };
        let cache = open();
        cache.set("kept", "value", Ttl::Never).expect("set");
        for i in 0..30 {
            killed(&cache, &format!("k{i}"));
            assert_eq!(cache.stats().expect("stats").leftovers, 1, "{layout:?}, {i}");
            cache.set("kept", "value", Ttl::Never).expect("set");
            assert_eq!(temporary_files(&cache), 0, "{layout:?}, {i}: the next set removes it");
        }
        (0..60).for_each(|i| killed(&cache, &format!("k{i}")));
        assert_eq!(temporary_files(&cache), 60);
        cache.set("another", "value", Ttl::Never).expect("set");
        assert_eq!((temporary_files(&cache), cache.stats().expect("stats").leftovers), (0, 0));
        killed(&cache, "last");
        drop(cache);
        let cache = open();
        assert_eq!(temporary_files(&cache), 0, "an opening removes it too");
        fits_on_disk(&cache, "after all");

        // What a living one is at work on stays.
        let mut writer = cache.writer("slow", Ttl::Never).expect("a writer");
        writer.write_all(&vec![7; 300_000]).expect("a piece");
        cache.set("kept", "value", Ttl::Never).expect("set");
        assert_eq!(temporary_files(&cache), 1);
        writer.commit().expect("commit");
        assert_eq!(get(&cache, "slow").map(|value| value.len()), Some(300_000));
        counts_match(&cache);
    }
}
