//! What holds for any text: it is refused with a reason, or what it means can be written and read back.

use std::fmt::Display;
use std::str::FromStr;

use crate::units::{Amount, Count, Size, Span, approx_size, approx_span, grouped};

fn prints_back<T: FromStr<Err: Display + std::fmt::Debug> + Display + PartialEq + std::fmt::Debug>(
    text: &str,
) -> Option<T> {
    match text.parse::<T>() {
        Ok(meant) => {
            assert_eq!(meant.to_string().parse::<T>().ok().as_ref(), Some(&meant), "{text:?} printed as \"{meant}\"");
            assert!(text.bytes().any(|b| b.is_ascii_digit()), "{text:?} has no number");
            Some(meant)
        }
        Err(why) => {
            assert!(why.to_string().contains(text), "{text:?} refused by {why:?}");
            None
        }
    }
}

pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (size, amount) = (prints_back::<Size>(text), prints_back::<Amount>(text));
    if let Some(Size(bytes)) = size {
        assert_eq!(amount, Some(Amount::Bytes(bytes)), "{text:?} as a size and as an amount");
        approx_size(bytes);
        assert_eq!(grouped(bytes).replace(',', ""), bytes.to_string());
    }
    if let Some(amount @ Amount::Share(_)) = amount {
        assert!(amount.of(1_000) <= 1_000 && amount.of(0) == 0, "{text:?} of something and of nothing");
    }
    if let Some(Span(span)) = prints_back::<Span>(text) {
        let rounded = approx_span(span).parse::<Span>().expect("a span for the eye is a span");
        assert!(rounded.0.abs_diff(span) * 2 <= span, "{text:?} is shown as {rounded:?}");
        assert_eq!(size, None, "{text:?} is a size and a length of time");
    }
    prints_back::<Count>(text);
}
