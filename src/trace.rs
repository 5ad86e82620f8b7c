//! What happens off the hot path, told to the `tracing` crate where the feature of that name is on.

/// An event at level debug, in `tracing`'s own syntax; nothing at all without the feature.
macro_rules! trace {
    ($($event:tt)+) => {
        #[cfg(feature = "tracing")]
        tracing::debug!(target: "larder", $($event)+);
    };
}

/// A span at level debug, open until the end of the enclosing block; nothing at all without the feature.
macro_rules! span {
    ($name:literal) => {
        #[cfg(feature = "tracing")]
        let _span = tracing::debug_span!(target: "larder", $name).entered();
    };
}
