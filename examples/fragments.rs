//! Fragments of pages, each tagged with what it shows: when an article changes, all that shows it goes at once, whatever
//! its key, in O(1).

use std::cell::Cell;

use larder::{Cache, Error, Ttl};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let pages = Cache::file(dir.path()).open()?.namespace("pages");
    let rendered = Cell::new(0);

    // What goes into the page is known once it's rendered: the callback adds the tags.
    let page = |path: &str| -> Result<String, Error> {
        let html = pages.get_or_set_with(path, Ttl::hours(1), |computing| {
            rendered.set(rendered.get() + 1);
            let articles: &[u32] = if path == "/" { &[1, 2, 3] } else { &[3] };
            computing.tags(articles.iter().map(|id| format!("article:{id}")));
            Ok(format!("<h1>{path}</h1> shows {articles:?}, rendered as number {}", rendered.get()))
        })?;
        Ok(String::from_utf8_lossy(&html).into_owned())
    };

    let front = page("/")?;
    let article = page("/article/3")?;
    assert_eq!((page("/")?, page("/article/3")?), (front.clone(), article.clone()));
    assert_eq!(rendered.get(), 2, "each was rendered once");

    // Article 1 changes: the front page shows it, the other page doesn't.
    pages.invalidate_tag("article:1")?;
    assert_ne!(page("/")?, front);
    assert_eq!(page("/article/3")?, article);
    assert_eq!(rendered.get(), 3);

    // Article 3 changes: both show it.
    pages.invalidate_tag("article:3")?;
    assert_ne!(page("/article/3")?, article);
    assert!(page("/")?.ends_with("number 5"));

    // A new design: all pages go, and nothing else of the cache does.
    let other = pages.namespace("other");
    other.set("k", "v", Ttl::Never)?;
    pages.clear()?;
    assert!(!pages.contains("/")? && !pages.contains("/article/3")? && other.contains("k")?);
    println!("rendered {} times", rendered.get());
    Ok(())
}
