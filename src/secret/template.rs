//! Renders the templates of files.
//!
//! Input: templates, and values by name.
//! Output: texts, or which line of which file has to change.
//! Invariants: an unknown name is an error. The work, the memory and the output of a template are
//! bounded, whatever its author writes. A message is made of the kind of the error, the line and names
//! of the template: the messages of the template engine are not used, because they may quote values.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, thread,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, syntax::SyntaxConfig,
};
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use self::language::forbidden_part;
use super::limits::MAX_VALUE_BYTES;
use crate::printable;

mod language;

/// The longest template, in bytes. The CRD counts characters.
pub const MAX_TEMPLATE_BYTES: usize = 16 * 1024;
/// The budget of one template: about as many instructions, or 64 bytes of data for each. So a template
/// takes at most 4 MiB, besides its output.
const FUEL: u64 = 65_536;
/// The stack of the thread that renders. The parser and the compiler of the engine recurse with the
/// length of a chain such as `not not not`, which only the length of a template bounds.
const STACK_BYTES: usize = 64 * 1024 * 1024;
/// Names that a message lists.
const MAX_LISTED: usize = 5;

/// Why a template gives no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.managedSecret.files: {file}{}: {problem}", line_of(*.line))]
pub struct TemplateError {
    /// The file.
    pub file: String,
    /// The line of its template, from 1.
    pub line: Option<usize>,
    /// What is wrong, without any value.
    pub problem: Problem,
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The template is too long.
    #[error("the template is longer than {MAX_TEMPLATE_BYTES} bytes: shorten it")]
    TooLong,
    /// A name does not exist.
    #[error(
        "{} no name that Doppler returned, or excluded: correct the name, or test it with `is defined`",
        names(.0)
    )]
    UnknownName(Vec<String>),
    /// It is no template.
    #[error("the template has a syntax error: check braces, quotes and the end of each block")]
    Syntax,
    /// It contains more than names, filters and conditions.
    #[error(
        "the template contains `{0}`: it may have names, filters and `if`, but no lists, loops, variables or `*`"
    )]
    NotAllowed(String),
    /// It takes too much.
    #[error(
        "the template needs too much work or memory, or its text is longer than a Secret can hold: make it simpler"
    )]
    TooMuch,
    /// Another error of the engine, by its kind.
    #[error("the template cannot be rendered ({0}): correct the expression")]
    Other(String),
    /// There is no thread to render in.
    #[error("the operator has no thread to render the template, and tries again soon")]
    NoThread,
}

fn line_of(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(", line {line}"))
}

fn names(names: &[String]) -> String {
    let listed = names.iter().take(MAX_LISTED);
    let listed: Vec<String> = listed.map(|name| printable::name(name)).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", listed.join(", "))
}

/// Renders `templates`, by file.
///
/// # Errors
/// The first problem.
pub fn render(
    templates: &BTreeMap<&str, &str>,
    values: &BTreeMap<String, &SecretString>,
) -> Result<BTreeMap<String, SecretSlice<u8>>, TemplateError> {
    in_thread(templates, |source| render_one(source, values))
}

/// Checks the syntax of `templates`, by file.
///
/// # Errors
/// The first problem.
pub fn check_syntax(templates: &BTreeMap<&str, &str>) -> Result<(), TemplateError> {
    let checked = in_thread(templates, |source| {
        let environment = environment();
        let template = environment.template_from_str(source);
        let template = template.map_err(|error| problem_of(&error, source, &BTreeSet::new()));
        template.map(|_| SecretSlice::from(Vec::new()))
    });
    checked.map(drop)
}

type Rendered = Result<SecretSlice<u8>, (Option<usize>, Problem)>;

/// Handles each template in one thread with a large stack.
fn in_thread(
    templates: &BTreeMap<&str, &str>,
    handle: impl Fn(&str) -> Rendered + Sync,
) -> Result<BTreeMap<String, SecretSlice<u8>>, TemplateError> {
    let error = |file: &str, (line, problem)| TemplateError {
        file: file.to_owned(),
        line,
        problem,
    };
    let Some(first) = templates.keys().next() else {
        return Ok(BTreeMap::new());
    };
    let all = || {
        let mut rendered = BTreeMap::new();
        for (file, source) in templates {
            let text = if source.len() > MAX_TEMPLATE_BYTES {
                Err((None, Problem::TooLong))
            } else if let Some((line, part)) = forbidden_part(source, syntax()) {
                Err((Some(line), Problem::NotAllowed(printable::name(&part))))
            } else {
                handle(source)
            };
            let text = text.map_err(|problem| error(file, problem))?;
            rendered.insert((*file).to_owned(), text);
        }
        Ok(rendered)
    };
    let no_thread = || error(first, (None, Problem::NoThread));
    thread::scope(|scope| {
        let builder = thread::Builder::new().stack_size(STACK_BYTES);
        let thread = builder.spawn_scoped(scope, all).map_err(|_| no_thread())?;
        thread.join().map_err(|_| no_thread())?
    })
}

fn syntax() -> SyntaxConfig {
    // A file keeps the line break at its end.
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    syntax.unwrap_or_default()
}

fn environment<'a>() -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(syntax());
    environment.set_fuel(Some(FUEL));
    // Functions make lists and variables, and `debug` would print every value of the template.
    let functions: Vec<String> = environment
        .globals()
        .map(|(name, _)| name.to_owned())
        .collect();
    for function in functions {
        environment.remove_global(&function);
    }
    environment.add_filter("b64encode", |text: &str| STANDARD.encode(text));
    environment
}

fn render_one(source: &str, values: &BTreeMap<String, &SecretString>) -> Rendered {
    let environment = environment();
    let template = environment.template_from_str(source);
    let template = template.map_err(|error| problem_of(&error, source, &BTreeSet::new()))?;
    let (mut context, mut unknown) = (BTreeMap::new(), BTreeSet::new());
    for name in template.undeclared_variables(false) {
        match values.get(&name) {
            Some(value) => {
                context.insert(name, Value::from(value.expose_secret()));
            }
            None => {
                unknown.insert(name);
            }
        }
    }
    let mut output = Bounded(Vec::new());
    let rendered = template.render_captured_to(Value::from(context), &mut output);
    match rendered {
        Ok(_) => Ok(SecretSlice::from(output.0)),
        Err(error) => Err(problem_of(&error, source, &unknown)),
    }
}

/// The problem of an error, and its line.
fn problem_of(error: &Error, source: &str, unknown: &BTreeSet<String>) -> (Option<usize>, Problem) {
    let line = error.line();
    let problem = match error.kind() {
        ErrorKind::SyntaxError | ErrorKind::BadEscape => Problem::Syntax,
        ErrorKind::OutOfFuel | ErrorKind::WriteFailure => Problem::TooMuch,
        ErrorKind::UndefinedError if !unknown.is_empty() => {
            let at = line.and_then(|line| source.lines().nth(line.checked_sub(1)?));
            let on_line =
                |name: &&String| at.is_some_and(|at| words(at).any(|word| word == **name));
            let mut named: Vec<String> = unknown.iter().filter(on_line).cloned().collect();
            if named.is_empty() {
                named = unknown.iter().cloned().collect();
            }
            Problem::UnknownName(named)
        }
        // The description of a kind is a constant text.
        kind => Problem::Other(kind.to_string()),
    };
    (line, problem)
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

/// An output that no Secret can hold is an error.
struct Bounded(Vec<u8>);

impl io::Write for &mut Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_VALUE_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
