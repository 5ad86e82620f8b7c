//! A cache's marker: whatever its bytes, it is refused or says what was written.

use larder::fuzz;

/// Takes the marker as it is, then with a sum that fits. Returns whether it was accepted as it is.
pub(crate) fn check(bytes: &[u8]) -> bool {
    let accepted = [true, false].map(|read_only| fuzz::marker(bytes, read_only).is_some());
    assert!(accepted[0] || !accepted[1], "what may be written may be read");
    if let Some(forged) = fuzz::forge_marker(bytes)
        && let Some(again) = fuzz::marker(&forged, true)
    {
        assert_eq!(fuzz::marker(&again, false).as_ref(), Some(&again), "written anew it stays as it is");
    }
    accepted[0]
}
