//! What happens off the hot path, told to the `tracing` crate where the feature of that name is on.

/// An event at level debug, in `tracing`'s own syntax; nothing at all without the feature.
macro_rules! trace {
    ($($event:tt)+) => {
        #[cfg(feature = "tracing")]
        tracing::debug!(target: "larder", $($event)+);
    };
}
