//! The option `--limit NAME=VALUE`, which sets limits on the contents of an image.

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use imgmount::{Error, Limit, Limits};

use super::options::parse_bytes;

const OPTION: &str = "limit";

/// The limits that the options select. The option can be repeated, so its values add up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LimitArgs {
    pub(crate) limits: Limits,
}

impl Args for LimitArgs {
    fn augment_args(command: Command) -> Command {
        let names: Vec<_> = Limits::all().map(|limit| limit.name).collect();
        let help = format!(
            "Set a limit on the contents of an image; can be repeated. VALUE is a number, or has a suffix K, M, G or \
             T. NAME is one of {}",
            names.join(", ")
        );
        command.arg(
            Arg::new(OPTION)
                .long(OPTION)
                .value_name("NAME=VALUE")
                .action(ArgAction::Append)
                .value_parser(ValueParser::new(parse_limit))
                .help(help),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        LimitArgs::augment_args(command)
    }
}

impl FromArgMatches for LimitArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = LimitArgs::default();
        args.update_from_arg_matches(matches).map(|()| args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (name, value) in matches.get_many::<(&str, u64)>(OPTION).into_iter().flatten() {
            // The parser accepts only names of limits.
            let _ = self.limits.set(name, *value);
        }
        Ok(())
    }
}

/// Parses `NAME=VALUE`.
fn parse_limit(text: &str) -> Result<(&'static str, u64), String> {
    let (name, value) = text.split_once('=').ok_or("use NAME=VALUE, as in entries=20M")?;
    let Some(limit) = Limit::named(name) else {
        let names: Vec<_> = Limits::all().map(|limit| limit.name).collect();
        return Err(format!("'{name}' is not a limit; use one of {}", names.join(", ")));
    };
    Ok((limit.name, parse_bytes(value)?))
}

/// Returns the suggested next step after an error about a limit that the user can set.
pub(crate) fn hint(error: &Error) -> Option<String> {
    let Error::Limit { limit, .. } = error else { return None };
    let limit = Limit::named(limit)?;
    Some(format!("if you trust the image, --limit {}=VALUE raises the limit", limit.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Limits, String> {
        let command = LimitArgs::augment_args(Command::new("imgmount"));
        let all = ["imgmount"].iter().chain(arguments);
        let matches = command.try_get_matches_from(all).map_err(|error| error.to_string())?;
        Ok(LimitArgs::from_arg_matches(&matches).unwrap().limits)
    }

    #[test]
    fn c48_each_limit_is_set_by_name_and_the_last_value_counts() {
        let limits = parse(&["--limit", "entries=2K", "--limit=members=7", "--limit", "members=8"]).unwrap();
        assert_eq!((limits.get("entries"), limits.get("members")), (Some(2048), Some(8)));
        for limit in Limits::all() {
            let set = parse(&[&format!("--limit={}=9", limit.name)]).unwrap();
            assert_eq!(set.get(limit.name), Some(9), "{}", limit.name);
        }
    }

    #[test]
    fn c48_what_sets_no_limit_is_refused() {
        let refusal = |text: &str| parse(&["--limit", text]).unwrap_err();
        let unknown = refusal("entires=1");
        assert!(unknown.contains("'entires' is not a limit; use one of entries, "), "{unknown}");
        assert!(Limits::all().all(|limit| unknown.contains(limit.name)), "{unknown}");
        assert!(refusal("entries").contains("use NAME=VALUE"));
        assert!(refusal("entries=x").contains("'x' is not a size"));
    }

    #[test]
    fn c48_lists_of_mount_options_add_up() {
        let mut args = LimitArgs::default();
        for list in ["entries=1", "members=2"] {
            let command = LimitArgs::augment_args(Command::new("imgmount"));
            let matches = command.try_get_matches_from(["imgmount", "--limit", list]).unwrap();
            args.update_from_arg_matches(&matches).unwrap();
        }
        assert_eq!((args.limits.get("entries"), args.limits.get("members")), (Some(1), Some(2)));
    }
}
