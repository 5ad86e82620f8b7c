//! Named caches from a service's configuration file, and moving from one store to another.
//!
//! Run with `cargo run --example by_config --features toml`.

#[cfg(feature = "toml")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use larder::{Caches, Ttl};

    let dir = tempfile::tempdir()?;
    let config = format!(
        r#"
        [default]
        url = "file://{dir}/default"
        max_entries = 10_000
        max_bytes = "64MiB"

        [sessions]
        url = "file://{dir}/sessions?durability=disk"
        default_ttl = "2w"
        "#,
        dir = dir.path().display()
    );
    let caches = Caches::from_toml(&config)?;
    let sessions = caches.get("sessions")?;
    sessions.set("user:42", "token", Ttl::Default)?;

    let done = larder::copy(&sessions, &caches.get("default")?, |_| true, |_, _| {})?;
    println!("{} entries copied", done.entries);
    assert!(caches.get("default")?.ttl("user:42")?.is_some_and(|ttl| ttl != Ttl::Never));

    // Mistakes are named by table and key.
    let error = Caches::from_toml("[default]\nurl = \"null://\"\nmax_entires = 5").expect_err("no such option");
    println!("{error}");
    Ok(())
}

#[cfg(not(feature = "toml"))]
fn main() {
    println!("this build reads no TOML; add --features toml");
}
