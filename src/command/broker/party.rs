//! Who may come to a broker, as it is named on the command line: `NAME`, or `NAME@SITE` where a broker serves several.

use std::collections::BTreeMap;
use std::str::FromStr;

use vmkpi::name::Label;

use super::super::key::client_name;
use super::rights::{Right, Role, rights};

/// Every site of the broker.
const EVERY: &str = "*";

/// A user of the broker: the common name of a certificate, and at which sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    name: Label,
    sites: Sites,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sites {
    /// The only one.
    Unsaid,
    Every,
    One(Label),
}

impl FromStr for Party {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, site) = match text.split_once('@') {
            Some((name, site)) => (name, Some(site)),
            None => (text, None),
        };
        let sites = match site {
            None => Sites::Unsaid,
            Some(EVERY) => Sites::Every,
            Some(site) => Sites::One(site.parse().map_err(|e| format!("SITE: {e}"))?),
        };
        let name = client_name(name)?.parse().map_err(|e| format!("{e}"))?;
        Ok(Self { name, sites })
    }
}

impl Party {
    /// The sites of `all` at which it may do something.
    fn sites<'a>(&'a self, all: &'a [Label]) -> Result<&'a [Label], String> {
        match &self.sites {
            Sites::Unsaid if all.len() > 1 => Err(format!(
                "{0}: there are several sites; write {0}@SITE, or {0}@{EVERY} for all of them",
                self.name
            )),
            Sites::Unsaid | Sites::Every => Ok(all),
            Sites::One(site) if all.contains(site) => Ok(std::slice::from_ref(site)),
            Sites::One(site) => Err(format!(
                "{}@{site}: the broker does not serve {site}; add --site",
                self.name
            )),
        }
    }
}

/// What a user is, at which site, and what that lets it do.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant {
    /// What it is.
    pub role: Role,
    /// Where.
    pub site: Label,
    /// What it may do there.
    pub rights: Vec<Right>,
}

/// The grants of each user, by name: one who has several roles has the rights of all of them.
///
/// # Errors
/// A party names a site that is not there, or none where there are several.
pub fn grants<'a>(
    sites: &[Label],
    parties: impl IntoIterator<Item = (Role, &'a Party)>,
) -> Result<BTreeMap<Label, Vec<Grant>>, String> {
    let mut users: BTreeMap<Label, Vec<Grant>> = BTreeMap::new();
    for (role, party) in parties {
        let of = users.entry(party.name.clone()).or_default();
        for site in party.sites(sites)? {
            if of.iter().any(|g| (g.role, &g.site) == (role, site)) {
                continue;
            }
            of.push(Grant {
                role,
                site: site.clone(),
                rights: rights(role, site, &party.name),
            });
        }
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(names: &[&str]) -> Vec<Label> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn party(text: &str) -> Party {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_that_could_be_more_than_a_name_in_an_acl_is_refused() {
        for bad in [
            "",
            "#",
            "+",
            "a/b",
            "a b",
            "a\ntopic readwrite #",
            "a\rb",
            "%u",
            "$SYS",
            ".a",
            "größe",
            &"x".repeat(65),
            "@acme",
            "a+@acme",
            "ca",
            "a@",
            "a@x/y",
            "a@x\ntopic readwrite #",
        ] {
            assert!(bad.parse::<Party>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn where_a_broker_serves_several_sites_it_has_to_be_said_which() {
        let (one, two) = (sites(&["acme"]), sites(&["acme", "globex"]));
        let of = |text: &str, all: &[Label]| {
            let party = party(text);
            grants(all, [(Role::Host, &party)]).map(|users| {
                let grants = users.into_values().flatten();
                grants.map(|g| g.site.to_string()).collect::<Vec<_>>()
            })
        };
        assert_eq!(of("hosts", &one).unwrap(), ["acme"]);
        assert_eq!(of("hosts@globex", &two).unwrap(), ["globex"]);
        assert_eq!(of("hosts@*", &two).unwrap(), ["acme", "globex"]);
        assert!(of("hosts", &two).unwrap_err().contains("hosts@SITE"));
        assert!(of("hosts@globex", &one).unwrap_err().contains("globex"));
    }

    #[test]
    fn who_has_several_roles_has_them_once_each() {
        let (all, name) = (sites(&["acme"]), party("relay"));
        let roles = [Role::RelayOut, Role::RelayIn, Role::RelayOut];
        let users = grants(&all, roles.map(|role| (role, &name))).unwrap();
        let grants = &users[&"relay".parse().unwrap()];
        let roles: Vec<_> = grants.iter().map(|g| g.role).collect();
        assert_eq!(roles, [Role::RelayOut, Role::RelayIn]);
    }
}
