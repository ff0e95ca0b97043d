//! Parses the lists of `-o`: splits them into items, and applies an item as the long option that it
//! names.
//!
//! Pure: returns values, or an error message about the text.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, Command, FromArgMatches};

/// Splits a list of `-o` at its commas and each item at its first `=`. A backslash escapes a comma or a
/// backslash, as in fuse(8).
pub(super) fn split_list(list: &str) -> Vec<(String, Option<String>)> {
    let mut items = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        match (character, items.last_mut()) {
            (',', _) => items.push(String::new()),
            ('\\', Some(item)) => item.extend(characters.next()),
            (other, Some(item)) => item.push(other),
            (_, None) => {}
        }
    }
    items.retain(|item| !item.is_empty());
    items.into_iter().map(|item| split_item(&item)).collect()
}

fn split_item(item: &str) -> (String, Option<String>) {
    match item.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (item.to_owned(), None),
    }
}

/// Applies an item of a `-o` list to `args`, as the long option `--name` or `--name=value` of
/// `command`, which is the command of `args`, prepared for updates. Every long option that is not
/// hidden can be given this way.
///
/// # Errors
/// For an unknown option, or a value that is missing or not accepted: a message about `name`.
pub(super) fn fold_long(
    args: &mut impl FromArgMatches,
    command: Command,
    name: &str,
    value: Option<&str>,
) -> Result<(), String> {
    let known = command.get_arguments().find(|arg| arg.get_long() == Some(name) && !arg.is_hide_set());
    let argument = match (known.map(|arg| arg.get_action().takes_values()), value) {
        (Some(true), Some(value)) => format!("--{name}={value}"),
        (Some(false), None) => format!("--{name}"),
        (Some(true), None) => return Err(format!("'{name}' needs a value")),
        (None, None) => return Err(format!("'{name}' is unknown")),
        (_, Some(_)) => return Err(format!("'{name}' is unknown or takes no value")),
    };
    let ids: Vec<_> = command.get_arguments().map(Arg::get_id).cloned().collect();
    let refused = |error: &clap::Error| format!("'{name}': {}", reason(error));
    let mut matches = command.try_get_matches_from([argument]).map_err(|error| refused(&error))?;
    // Defaults are matches, too, and would replace values from the command line.
    for id in ids.iter().map(clap::Id::as_str) {
        if matches.value_source(id) != Some(ValueSource::CommandLine) {
            let _ = matches.try_clear_id(id);
        }
    }
    args.update_from_arg_matches_mut(&mut matches).map_err(|error| refused(&error))
}

/// Returns clap's objection to a value, without the surrounding words.
fn reason(error: &clap::Error) -> String {
    match (error.get(ContextKind::InvalidValue), error.get(ContextKind::ValidValue), error.source()) {
        (_, _, Some(cause)) => cause.to_string(),
        (Some(ContextValue::String(value)), Some(ContextValue::Strings(valid)), _) if !valid.is_empty() => {
            format!("'{value}' is not one of {}", valid.join(", "))
        }
        (Some(ContextValue::String(value)), ..) => format!("'{value}' is not accepted"),
        _ => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options::parse_bytes;

    #[derive(Debug, Default, PartialEq, clap::Args)]
    struct Sample {
        #[arg(long, value_parser = parse_bytes, default_value = "1")]
        size: u64,
        #[arg(long)]
        flag: bool,
        #[arg(long, hide = true)]
        secret: bool,
        #[arg(long)]
        file: Option<std::path::PathBuf>,
        #[arg(short)]
        short: bool,
    }

    fn fold(args: &mut Sample, name: &str, value: Option<&str>) -> Result<(), String> {
        use clap::Args as _;
        let command = Command::new("sample").no_binary_name(true).version("1");
        fold_long(args, Sample::augment_args_for_update(command), name, value)
    }

    #[test]
    fn an_item_sets_its_long_option_and_no_other() {
        let mut args = Sample { size: 7, ..Sample::default() };
        fold(&mut args, "flag", None).unwrap();
        fold(&mut args, "file", Some("--flag=x")).unwrap();
        let file = Some("--flag=x".into());
        assert_eq!(args, Sample { size: 7, flag: true, file, ..Sample::default() });
        fold(&mut args, "size", Some("2K")).unwrap();
        assert_eq!((args.size, args.flag), (2048, true));
    }

    #[test]
    fn an_item_that_is_no_visible_long_option_is_refused() {
        for name in ["help", "version", "secret", "short", "s", "", "-", "-flag", "flag --secret"] {
            let mut args = Sample::default();
            assert_eq!(fold(&mut args, name, None), Err(format!("'{name}' is unknown")));
            let valued = fold(&mut args, name, Some("1"));
            assert_eq!(valued, Err(format!("'{name}' is unknown or takes no value")));
            assert_eq!(args, Sample::default());
        }
    }

    #[test]
    fn a_value_that_is_not_accepted_is_refused_with_the_reason() {
        let mut args = Sample::default();
        let mut refusal = |name, value| fold(&mut args, name, value).unwrap_err();
        assert_eq!(
            refusal("size", Some("x")),
            "'size': 'x' is not a size; use bytes, or a suffix as in 256M"
        );
        assert_eq!(refusal("size", None), "'size' needs a value");
        assert_eq!(refusal("flag", Some("true")), "'flag' is unknown or takes no value");
        assert_eq!(refusal("file", Some("")), "'file': '' is not accepted");
    }

    #[test]
    fn a_list_splits_at_commas_and_first_equals_signs() {
        let items = split_list(r"ro,platform=linux/arm64,,image=a\,b=c\\d,=x");
        let expected =
            [("ro", None), ("platform", Some("linux/arm64")), ("image", Some(r"a,b=c\d")), ("", Some("x"))];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(items, expected);
    }
}
