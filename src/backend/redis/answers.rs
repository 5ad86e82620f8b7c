//! What a server's answers mean that say no.

use redis::{ServerError, Value};

use crate::error::{Error, ErrorKind};

/// An error's code. What Redis 6 reports of an error inside a script has its code in the middle.
pub(super) fn code(error: &ServerError) -> &str {
    let code = error.code();
    let inside = || {
        let details = error.details().filter(|text| text.starts_with("Error running script"))?;
        let at = details.find(": -")? + 3;
        let end = details[at..].find(|c: char| !c.is_ascii_uppercase())?;
        Some(&details[at..at + end])
    };
    if code == "ERR" { inside().filter(|code| !code.is_empty()).unwrap_or(code) } else { code }
}

/// What a server says that can't serve at all for now.
pub(super) fn unwell(answer: &Value) -> Option<String> {
    let Value::ServerError(error) = answer else { return None };
    matches!(code(error), "LOADING").then(|| text(error))
}

/// Whether a server refuses as one that isn't the master, or not any more, or that may not change anything: nothing was
/// done, and another server may do it.
pub(super) fn is_for_another(error: &ServerError) -> bool {
    matches!(code(error), "READONLY" | "MASTERDOWN" | "NOREPLICAS")
}

pub(super) fn is_unknown_script(error: &ServerError) -> bool {
    code(error) == "NOSCRIPT"
}

/// Whether `EVALSHA` itself can't be had, by the rights of the user or by a renamed command.
pub(super) fn has_no_evalsha(error: &ServerError) -> bool {
    let details = error.details().unwrap_or_default().to_ascii_lowercase();
    let refused = code(error) == "NOPERM" || details.starts_with("unknown command");
    refused && details.contains("evalsha")
}

pub(super) fn is_out_of_clients(error: &ServerError) -> bool {
    error.details().is_some_and(|text| text.starts_with("max number of clients"))
}

/// In the server's words.
fn text(error: &ServerError) -> String {
    format!("{} {}", error.code(), error.details().unwrap_or_default()).trim_end().to_owned()
}

/// An answer that says no, with the way out.
pub(super) fn refusal(error: &ServerError) -> Error {
    let details = error.details().unwrap_or_default();
    let (kind, what) = match code(error) {
        "OOM" => (
            ErrorKind::Full,
            "the server is full (raise maxmemory, or set a maxmemory-policy that evicts: allkeys-lfu)",
        ),
        "WRONGPASS" | "NOAUTH" => (ErrorKind::Refused, "the server refuses the login"),
        "NOPERM" => (ErrorKind::Refused, "the user has not all the rights that docs/STORES.md lists"),
        "DENIED" => (ErrorKind::Refused, "the server refuses clients of other machines"),
        "READONLY" => {
            let what = "the server is a read-only replica (name its master, or redis-sentinel://sentinel:26379/name)";
            (ErrorKind::ReadOnly, what)
        }
        "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" => (ErrorKind::Io, "the server can't serve for now"),
        "NOREPLICAS" => (ErrorKind::Io, "the server takes no changes while too few replicas follow it"),
        "MISCONF" => (ErrorKind::Io, "the server takes no changes while it can't save them"),
        "TRYAGAIN" | "BUSY" => (ErrorKind::Busy, "the server is busy with these keys"),
        "MOVED" | "ASK" => {
            let node = details.split(' ').nth(1).unwrap_or("host:port");
            let text = format!("the server is a node of a cluster, whose URL is redis-cluster://{node}");
            return Error::new(ErrorKind::InvalidOption, text);
        }
        "ERR" if is_out_of_clients(error) => {
            (ErrorKind::Io, "the server has as many clients as its maxclients allows (lower max_connections)")
        }
        "ERR" if details.to_ascii_lowercase().starts_with("unknown command") => {
            (ErrorKind::Unsupported, "the server lacks a command that docs/STORES.md lists")
        }
        _ => (ErrorKind::Io, "the server refuses"),
    };
    Error::new(kind, format!("{what}: {}", text(error)))
}
