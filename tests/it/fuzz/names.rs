//! Names in a cache's directory: each has one spelling and one meaning.

use larder::fuzz;

/// Returns what the name means.
pub(crate) fn check(bytes: &[u8]) -> Option<&'static str> {
    let meanings = fuzz::names(std::str::from_utf8(bytes).ok()?);
    assert!(meanings.len() <= 1, "more than one meaning: {meanings:?}");
    let (meaning, spelling) = meanings.into_iter().next()?;
    assert_eq!(spelling.as_bytes(), bytes, "spelled in another way");
    Some(meaning)
}
