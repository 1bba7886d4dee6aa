//! The commands that speak to this appliance's daemons over D-Bus.

mod centre;
mod jobs;
mod restore;
mod secret;
pub(crate) mod show;
mod snapshots;
mod status;
mod wait;

use anyhow::Result;
use clap::Subcommand;
use contract::FieldsExt;
use serde_json::json;
use zbus::DBusError;

/// What can be asked of the appliance this runs on.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// What this appliance is and how it does: role, keys, pool, datastores, uplink
    Status,
    /// Backup definitions and the history of their runs; define, run, remove
    Jobs {
        #[command(subcommand)]
        action: Option<jobs::Action>,
        /// Runs to show
        #[arg(long, default_value_t = 10)]
        limit: u32,
    },
    /// Snapshots kept here, newest first
    Snapshots(snapshots::Filter),
    /// Restore a snapshot into a directory of this machine
    Restore(restore::Restore),
    /// What the daemons have told the journal
    Log {
        /// The last so many lines
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: u32,
        /// Of one daemon only (keyd, poold, engined, ...)
        #[arg(long)]
        daemon: Option<String>,
    },
    /// Protected servers paired with this appliance
    Agents,
    /// Open pairing: prints the one-time code to type at the agent
    Pair(centre::Pair),
    /// Copy what the centre does not have yet, now
    Offsite,
    /// Re-read and check every byte of the datastores kept here
    Verify {
        /// This datastore only
        datastore: Option<String>,
    },
    /// Join a centre with an enrolment token
    Enrol {
        /// The token, as the centre printed it; `-` or nothing: asked for, or a line of standard input
        #[arg(default_value = "-")]
        token: String,
    },
    /// Change who can read this tenant's copies at the centre
    Custody {
        /// msp: the centre can restore alone; client: only with the client's share
        #[arg(value_parser = ["msp", "client"])]
        custody: String,
    },
    /// The MSP's end: make this appliance a centre; tenants, tokens, sites
    Centre {
        #[command(subcommand)]
        action: centre::Action,
    },
}

/// The bus, and whether answers are for a program.
pub(crate) struct Session {
    bus: zbus::Connection,
    json: bool,
}

/// Runs one command; the error's text is for the operator.
pub(crate) async fn run(command: Command, json: bool) -> Result<()> {
    let bus = runtime::connect().await.map_err(|e| {
        anyhow::anyhow!(
            "the system bus cannot be reached ({e}); run this on the appliance itself, and see \
             there whether the bus runs (`systemctl status dbus`)"
        )
    })?;
    let session = Session { bus, json };
    match command {
        Command::Status => status::status(&session).await,
        Command::Jobs {
            action: None,
            limit,
        } => jobs::list(&session, limit).await,
        Command::Jobs {
            action: Some(action),
            ..
        } => jobs::act(&session, action).await,
        Command::Snapshots(filter) => snapshots::list(&session, &filter).await,
        Command::Restore(restore) => restore::restore(&session, &restore).await,
        Command::Log { lines, daemon } => jobs::log(&session, lines, daemon.as_deref()).await,
        Command::Agents => jobs::agents(&session).await,
        Command::Pair(pair) => centre::pair(&session, &pair).await,
        Command::Offsite => snapshots::offsite(&session).await,
        Command::Verify { datastore } => snapshots::verify(&session, datastore).await,
        Command::Enrol { token } => {
            let enrol = contract::EnrolProxy::new(&session.bus).await?;
            let token = match token.as_str() {
                // a long text that is wanted once is typed better when it is seen
                "-" => secret::ask("The token", true)?,
                _ => token.into(),
            };
            let job = told(
                "enrold",
                enrol.enrol(&token, contract::Options::new()).await,
            )?;
            let result = wait::wait(&session, "enrold", &job).await?;
            session.answer(show::object(&result), || {
                let tenant: String = result.required("tenant_name").unwrap_or_default();
                let site: String = result.required("site_name").unwrap_or_default();
                println!("This appliance is now the site {site} of {tenant}.");
                centre::print_shares(&result);
            })
        }
        Command::Custody { custody } => centre::custody(&session, &custody).await,
        Command::Centre { action } => centre::act(&session, action).await,
    }
}

impl Session {
    /// One JSON document, or what `human` prints.
    fn answer(&self, document: serde_json::Value, human: impl FnOnce()) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(&document)?);
        } else {
            human();
        }
        Ok(())
    }
}

/// An error as its text alone: the name is for programs.
fn told<T>(daemon: &str, answer: Result<T, contract::Error>) -> Result<T> {
    answer.map_err(|error| anyhow::anyhow!(sentence(daemon, &error)))
}

/// The daemon's own sentence, or ours where the bus answered in its place.
fn sentence(daemon: &str, error: &contract::Error) -> String {
    let name = match error {
        contract::Error::ZBus(zbus::Error::MethodError(name, ..)) => name.to_string(),
        contract::Error::ZBus(zbus::Error::FDO(error)) => error.name().to_string(),
        _ => String::new(),
    };
    let how = match name.strip_prefix("org.freedesktop.DBus.Error.") {
        Some("AccessDenied") => {
            return "this appliance's daemons answer root only; run it as root".into();
        }
        // the second: dbus-broker could not start it
        Some("ServiceUnknown" | "NameHasNoOwner") => "is not running",
        Some("NoReply") => "ended before it answered",
        _ => return error.text(),
    };
    format!(
        "{daemon} {how}; `systemctl status strongroom-{daemon}` says why, \
         `systemctl restart strongroom-{daemon}` starts it again"
    )
}

fn objects(list: &[contract::Fields]) -> serde_json::Value {
    json!(list.iter().map(show::object).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::sentence;
    use contract::Error;
    use zbus::fdo;

    fn of_bus(error: fdo::Error) -> String {
        sentence("jobd", &Error::ZBus(error.into()))
    }

    #[test]
    fn what_the_bus_answers_names_the_daemon_and_the_next_step() {
        let next = "`systemctl status strongroom-jobd` says why, \
                    `systemctl restart strongroom-jobd` starts it again";
        for error in [
            fdo::Error::ServiceUnknown("x".into()),
            fdo::Error::NameHasNoOwner("x".into()),
        ] {
            assert_eq!(of_bus(error), format!("jobd is not running; {next}"));
        }
        assert_eq!(
            of_bus(fdo::Error::NoReply("x".into())),
            format!("jobd ended before it answered; {next}")
        );
        assert_eq!(
            of_bus(fdo::Error::AccessDenied("x".into())),
            "this appliance's daemons answer root only; run it as root"
        );
    }

    #[test]
    fn a_daemons_own_sentence_stays_as_it_is() {
        let own = Error::NotFound("there is no backup definition x".into());
        assert_eq!(sentence("jobd", &own), "there is no backup definition x");
    }
}
