//! `schema`: what `--json` prints, as JSON Schema.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, json_schema};
use serde_json::Value;

use super::{
    apply, bench, clear, config, copy, doctor, du, expire, get, has, hist, import, incr, init, prune, rm, schedule,
    set, show, stats, top, touch, ttl, verify, watch, why,
};
use crate::context::{Context, Ended};
use crate::exit_code::{Exit, Failure};
use crate::output::{json, removals, settings};

const EXAMPLES: &str = "\
Examples:
  cachectl schema stats
  cachectl schema prune | jq '.anyOf[].title'
  cachectl schema                                   the commands that have one";

/// Print the JSON Schema of what a command prints with --json.
///
/// Each line that --json prints is one object, and its field `schema` names its shape. Shapes only grow: a field may come, none
/// goes or changes its meaning as long as the name stays the same. A command that prints lines of several shapes has one of
/// `anyOf` for each.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct SchemaOf {
    /// The command
    command: Option<String>,
}

impl SchemaOf {
    pub fn run(self, context: &Context) -> Ended {
        let output = &context.output;
        let Some(command) = &self.command else {
            COMMANDS.iter().try_for_each(|command| output.line(command))?;
            return Ok(Exit::Done);
        };
        let shapes = shapes(command);
        if shapes.is_empty() {
            let text = format!("{command} has no --json; there are {}", COMMANDS.join(", "));
            return Err(Failure::usage(text));
        }
        let text = serde_json::to_string_pretty(&document(command, shapes)).map_err(std::io::Error::from)?;
        output.line(text)?;
        Ok(Exit::Done)
    }
}

/// The commands that have `--json`.
const COMMANDS: [&str; 29] = [
    "init", "stats", "ls", "du", "top", "hist", "show", "why", "has", "ttl", "get", "set", "rm", "expire", "touch",
    "incr", "decr", "prune", "apply", "clear", "verify", "doctor", "schedule", "copy", "export", "import", "config",
    "watch", "bench",
];

/// What a command prints, line by line.
fn shapes(command: &str) -> Vec<Schema> {
    let removal = || shape::<removals::Line<'_>>("removal");
    match command {
        "init" => vec![shape::<init::Answer>("init")],
        "stats" => vec![shape::<stats::Answer<'_>>("stats")],
        "ls" => vec![shape::<json::Entry>("entry")],
        "du" => vec![shape::<du::Answer>("du")],
        "top" => vec![shape::<top::Answer>("top")],
        "hist" => vec![shape::<hist::Answer>("hist")],
        "show" => vec![shape::<show::Answer>("show")],
        "why" => vec![shape::<why::Line>("why")],
        "has" => vec![shape::<has::Answer>("has")],
        "ttl" => vec![shape::<ttl::Answer>("ttl")],
        "get" => vec![with_value(shape::<get::Answer>("get"))],
        "set" => vec![shape::<set::Answer>("set")],
        "rm" => vec![shape::<rm::Answer<'_>>("rm")],
        "expire" => vec![shape::<expire::Answer>("expire")],
        "touch" => vec![shape::<touch::Answer>("touch")],
        "incr" => vec![shape::<incr::Answer>("incr")],
        "decr" => vec![shape::<incr::Answer>("decr")],
        "prune" => {
            let filtered = shape::<prune::filtered::Answer>("prune-where");
            vec![removal(), shape::<removals::Answer>("prune"), filtered]
        }
        "apply" => vec![shape::<apply::Answer>("apply")],
        "clear" => vec![shape::<clear::Answer<'_>>("clear")],
        "verify" => vec![shape::<verify::Line<'_>>("finding"), shape::<verify::Answer>("verify")],
        "doctor" => vec![shape::<doctor::Answer>("doctor")],
        "schedule" => vec![shape::<schedule::Done>("schedule")],
        "copy" => vec![shape::<copy::Answer>("copy")],
        "export" => vec![with_value(shape::<json::Entry>("export"))],
        "import" => vec![shape::<import::Answer>("import")],
        "watch" => vec![shape::<watch::Line>("watch")],
        "bench" => vec![shape::<bench::Line>("bench")],
        "config" => {
            let (path, files) = (shape::<config::Directory>("path"), shape::<config::Files>("validate"));
            vec![shape::<settings::Answer>("config"), path, files]
        }
        _ => Vec::new(),
    }
}

/// The shape of a type, whose field `schema` has this name.
fn shape<T: JsonSchema>(name: &str) -> Schema {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    let id = format!("larder.{name}/1");
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("schema".to_owned(), serde_json::json!({ "const": id }));
    }
    schema.insert("title".to_owned(), id.into());
    schema
}

/// The same with a value: as text where it is text, else null beside its Base64.
fn with_value(mut schema: Schema) -> Schema {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("value".to_owned(), serde_json::json!({ "type": ["string", "null"] }));
        properties.insert("value_base64".to_owned(), serde_json::json!({ "type": "string" }));
    }
    schema
}

fn document(command: &str, mut shapes: Vec<Schema>) -> Schema {
    let mut document = match shapes.len() {
        1 => shapes.remove(0),
        _ => json_schema!({ "title": format!("lines of cachectl {command} --json"), "anyOf": shapes }),
    };
    document.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    document
}
