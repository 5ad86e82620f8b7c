//! Values of options that several commands take.

use std::str::FromStr;

use larder::Ttl;

use crate::units::Span;

/// A time to live as the command line has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtlArg(pub Ttl);

impl FromStr for TtlArg {
    type Err = String;

    fn from_str(text: &str) -> Result<TtlArg, String> {
        match text {
            "never" => Ok(TtlArg(Ttl::Never)),
            _ => text
                .parse()
                .map(|Span(span)| TtlArg(Ttl::After(span)))
                .map_err(|error: larder::Error| format!("{error}, or never")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_to_live() {
        assert_eq!("never".parse(), Ok(TtlArg(Ttl::Never)));
        assert_eq!("30s".parse(), Ok(TtlArg(Ttl::After(Duration::from_secs(30)))));
        assert!("30".parse::<TtlArg>().unwrap_err().ends_with("or never"));
        "Never".parse::<TtlArg>().unwrap_err();
    }
}
