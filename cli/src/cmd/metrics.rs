//! `metrics`: the cache's figures for Prometheus.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use larder::Cache;

use crate::context::{Context, Ended, name_of};
use crate::exit_code::{Exit, Failure};
use crate::output::textfile::Metrics as Text;
use crate::signal::Interrupt;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D metrics
  cachectl -C D metrics --textfile /var/lib/node_exporter/app.prom
  cachectl -C D metrics --listen 127.0.0.1:9400     then: curl http://127.0.0.1:9400/metrics";

/// How long a client may take to ask, and to read.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most bytes of a request's head.
const HEAD: u64 = 8 * 1024;

/// How often an idle server looks whether it's to end.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Print the cache's figures in Prometheus's text format, write them to a file, or serve them.
///
/// They come from counters that all processes share, in no time whatever the cache's size. --listen serves them at
/// /metrics over HTTP, one request at a time, until a signal ends it: it has no password and no TLS, so let it listen
/// on loopback, or behind something that has.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Metrics {
    /// Write them to this file for the node exporter, as a whole
    #[arg(long, value_name = "FILE.prom", conflicts_with = "listen")]
    textfile: Option<PathBuf>,
    /// Serve them at this address
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
}

impl Metrics {
    pub fn run(self, context: &Context) -> Ended {
        let cache = context.look()?;
        let name = name_of(&cache)?;
        if let Some(address) = self.listen {
            return serve(context, &cache, &name, address);
        }
        let text = figures(&cache, &name)?;
        match &self.textfile {
            Some(file) => text.write(file)?,
            None => context.output.bytes(text.text().as_bytes())?,
        }
        Ok(Exit::Done)
    }
}

fn figures(cache: &Cache, name: &str) -> Result<Text, Failure> {
    let mut text = Text::new(name);
    text.stats(&cache.stats()?, &cache.capabilities());
    Ok(text)
}

fn serve(context: &Context, cache: &Cache, name: &str, address: SocketAddr) -> Ended {
    let failed = |error: io::Error| Failure::failed(address, error);
    let interrupt = Interrupt::catch()?;
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    if !context.output.quiet {
        let address = listener.local_addr().map_err(failed)?;
        context.output.note(format_args!("serving http://{address}/metrics"));
    }
    while !interrupt.came() {
        match listener.accept() {
            // A client that goes away or talks nonsense is its own trouble.
            Ok((client, _)) => drop(answer(&client, || figures(cache, name))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(LOOK_AGAIN),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(interrupt.exit().unwrap_or(Exit::Done))
}

fn answer(client: &TcpStream, figures: impl FnOnce() -> Result<Text, Failure>) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(client.take(HEAD)).lines();
    let request = lines.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))?;
    // What is not read would make the answer be thrown away.
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = request.split_whitespace();
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET" | "HEAD"), Some("/metrics" | "/")) => match figures() {
            Ok(text) => ("200 OK", text.text().to_owned()),
            Err(failure) => ("503 Service Unavailable", failure.message.unwrap_or_default()),
        },
        (Some("GET" | "HEAD"), Some(_)) => ("404 Not Found", "the figures are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "GET /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    let mut client = client;
    client.write_all(head.as_bytes())?;
    if !request.starts_with("HEAD") {
        client.write_all(body.as_bytes())?;
    }
    Ok(())
}
