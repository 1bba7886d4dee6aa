//! The MSP's end, and the codes and shares that people carry.

use super::{Session, objects, secret, show, told, wait};
use anyhow::Result;
use clap::{Args, Subcommand};
use contract::{CentreProxy, EnrolProxy, Fields, FieldsExt, KeysProxy, Options, PortalProxy};
use serde_json::json;

/// What a centre can be asked.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// Make this appliance a centre: authority, pool, listeners
    Init {
        /// Its name, as sites see it
        name: String,
        /// Where sites reach it: host:port
        endpoint: String,
    },
    /// Make a tenant
    Tenant {
        /// Its name
        name: String,
        /// msp: the centre can restore alone; client: only with the client's share
        #[arg(long, default_value = "msp", value_parser = ["msp", "client"])]
        custody: String,
    },
    /// Tenants
    Tenants,
    /// Make a one-time enrolment token for a new site of a tenant
    Token {
        /// The tenant's name or id
        tenant: String,
        /// The new site's name
        site: String,
        /// How long it can be used
        #[arg(long, default_value_t = 72)]
        hours: u32,
    },
    /// Sites
    Sites,
    /// Which keys were released for restores here, when and why
    Releases,
}

/// Options of a pairing.
#[derive(Args)]
pub(crate) struct Pair {
    /// How long the code can be used
    #[arg(long, default_value_t = 15)]
    minutes: u32,
    /// At a centre: the datastore the paired server may restore from
    #[arg(long)]
    datastore: Option<String>,
    #[command(flatten)]
    share: secret::Share,
    /// At a centre: how long the paired server may restore
    #[arg(long, default_value_t = 24)]
    hours: u32,
}

pub(super) async fn act(session: &Session, action: Action) -> Result<()> {
    let centre = CentreProxy::new(&session.bus).await?;
    match action {
        Action::Init { name, endpoint } => {
            let enrol = EnrolProxy::new(&session.bus).await?;
            let job = told(
                "enrold",
                enrol.init_centre(&name, &endpoint, Options::new()).await,
            )?;
            let result = wait::wait(session, "enrold", &job).await?;
            session.answer(show::object(&result), || {
                println!("This appliance is now the centre {name}; sites reach it at {endpoint}.");
                println!(
                    "Fingerprint of its authority: {}",
                    show::text(&result, "fingerprint")
                );
            })
        }
        Action::Tenant { name, custody } => {
            let options = Options::from([("custody", custody.as_str().into())]);
            let id = told("centred", centre.create_tenant(&name, options).await)?;
            session.answer(json!({ "id": id }), || println!("Tenant {name}: {id}"))
        }
        Action::Tenants => {
            let tenants = told("centred", centre.tenants().await)?;
            session.answer(objects(&tenants), || {
                let row = |t: &Fields| {
                    ["id", "name", "custody", "sites"]
                        .map(|n| show::text(t, n))
                        .to_vec()
                };
                show::table(
                    &["TENANT", "NAME", "CUSTODY", "SITES"],
                    &tenants.iter().map(row).collect::<Vec<_>>(),
                );
            })
        }
        Action::Token {
            tenant,
            site,
            hours,
        } => {
            let options = Options::from([("hours", hours.into())]);
            let (token, expires) = told(
                "centred",
                centre.create_token(&tenant, &site, options).await,
            )?;
            session.answer(json!({ "token": token, "expires": expires }), || {
                println!("Enrolment token: {token}");
                println!("At the new site: strongroom enrol, which asks for the token");
                println!("Good once, until {}.", show::time(expires));
            })
        }
        Action::Sites => {
            let sites = told("centred", centre.sites().await)?;
            session.answer(objects(&sites), || print_sites(&sites))
        }
        Action::Releases => {
            let releases = told("keyd", KeysProxy::new(&session.bus).await?.releases().await)?;
            session.answer(objects(&releases), || {
                let row = |r: &Fields| {
                    let mut row = vec![show::time_of(r, "time")];
                    row.extend(
                        ["tenant", "datastore", "custody", "released", "reason"]
                            .map(|n| show::text(r, n)),
                    );
                    row
                };
                let header = [
                    "TIME",
                    "TENANT",
                    "DATASTORE",
                    "CUSTODY",
                    "RELEASED",
                    "REASON",
                ];
                show::table(&header, &releases.iter().map(row).collect::<Vec<_>>());
            })
        }
    }
}

pub(super) fn print_sites(sites: &[Fields]) {
    let row = |s: &Fields| {
        let mut row = ["id", "name", "tenant_name", "datastore", "address"]
            .map(|n| show::text(s, n))
            .to_vec();
        row.push(show::time_of(s, "enrolled"));
        row
    };
    show::table(
        &["SITE", "NAME", "TENANT", "DATASTORE", "ADDRESS", "ENROLLED"],
        &sites.iter().map(row).collect::<Vec<_>>(),
    );
}

pub(super) async fn pair(session: &Session, pair: &Pair) -> Result<()> {
    let mut options = Options::from([("minutes", pair.minutes.into())]);
    if let Some(datastore) = &pair.datastore {
        options.insert("datastore", datastore.as_str().into());
        options.insert("hours", pair.hours.into());
    }
    let share = pair.share.read()?;
    if let Some(share) = &share {
        options.insert("share", share.as_str().into());
    }
    let (code, expires) = told(
        "portald",
        PortalProxy::new(&session.bus)
            .await?
            .open_pairing(options)
            .await,
    )?;
    session.answer(json!({ "code": code, "expires": expires }), || {
        println!("Pairing code: {code}");
        println!("On the server: strongroom-agent pair THIS-APPLIANCE, which asks for the code");
        println!("Good once, until {}.", show::time(expires));
    })
}

pub(super) async fn custody(session: &Session, custody: &str) -> Result<()> {
    let enrol = EnrolProxy::new(&session.bus).await?;
    let job = told("enrold", enrol.set_custody(custody, Options::new()).await)?;
    let result = wait::wait(session, "enrold", &job).await?;
    session.answer(show::object(&result), || {
        match custody {
            "client" => println!("The centre can no longer restore without the client's share."),
            _ => println!("The centre can restore this tenant's copies; each release of the key is logged there."),
        }
        print_shares(&result);
    })
}

/// Client custody's shares, once.
pub(super) fn print_shares(result: &Fields) {
    for (name, whose) in [
        ("client_share", "The client's share"),
        ("envelope_share", "The second envelope's share"),
    ] {
        if let Ok(Some(share)) = result.optional::<String>(name) {
            println!(
                "{whose}, shown this once; print it and keep it apart from the other:\n  {share}"
            );
        }
    }
}
