//! A command that runs, and has subcommands that look at what it has made: `vmkpi collect ...`, `vmkpi collect status`.

use clap::{ArgMatches, Args, FromArgMatches, Subcommand};

/// What is asked: to run, or one of the subcommands.
pub enum RunOr<R, C> {
    /// Run.
    Run(Box<R>),
    /// A subcommand.
    Other(C),
}

/// By hand, as a required argument of the one must not be one of the other.
impl<R: Args, C: Subcommand> FromArgMatches for RunOr<R, C> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand() {
            Some(_) => Ok(Self::Other(C::from_arg_matches(matches)?)),
            None => Ok(Self::Run(Box::new(R::from_arg_matches(matches)?))),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<R: Args, C: Subcommand> Args for RunOr<R, C> {
    fn augment_args(command: clap::Command) -> clap::Command {
        C::augment_subcommands(R::augment_args(command))
            .subcommand_required(false)
            .arg_required_else_help(true)
            .args_conflicts_with_subcommands(true)
            .subcommand_negates_reqs(true)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}
