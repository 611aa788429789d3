//! Who provides what: registrations of peers that serve commands, and what each of them has to do.
//!
//! A plugin in one major version has one owner. What is registered is parsed, and the policy knows it, before it comes here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use invoked_proto::Text;
use invoked_proto::metadata::{Call, MAJOR_HEADER};
use invoked_proto::registry::{Delivery, ErrorCode, quotas};

use super::Broker;
use super::calls::Ending;
use super::routes::{Callee, Given};
use super::slots::CallId;
use crate::authority::{ProvidedCommand, ProvidedInterface};
use crate::ipc::{Fault, PeerId};

/// What providers and their registrations are held to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProviderBounds {
    /// Calls in flight at one provider.
    pub(crate) calls: usize,
    /// Interfaces that one peer provides.
    pub(crate) registrations: usize,
    /// Registrations of one uid within a second.
    pub(crate) registrations_per_second: u32,
}

impl Default for ProviderBounds {
    fn default() -> Self {
        ProviderBounds {
            calls: usize::try_from(quotas::CALLS_PER_PROVIDER).unwrap_or(usize::MAX),
            registrations: usize::try_from(quotas::REGISTRATIONS_PER_PEER).unwrap_or(usize::MAX),
            registrations_per_second: u32::try_from(quotas::REGISTRATIONS_PER_SECOND).unwrap_or(u32::MAX),
        }
    }
}

/// What is provided now.
#[derive(Debug, Default)]
pub(super) struct Providers {
    /// By plugin, then by major version.
    served: BTreeMap<String, BTreeMap<u64, Registration>>,
    rates: HashMap<u32, Rate>,
}

#[derive(Debug)]
struct Registration {
    peer: PeerId,
    interface: Arc<ProvidedInterface>,
}

/// How many registrations a uid has made in the second that began then.
#[derive(Debug)]
struct Rate {
    since: Instant,
    count: u32,
}

/// What a peer does as a provider.
#[derive(Debug, Default)]
pub(super) struct Serving {
    /// Calls to it, by the daemon's stream.
    pub(super) calls: HashMap<u64, CallId>,
    /// How many there are, those included that have no stream yet.
    pub(super) open: usize,
    /// Of these, those that it goes on with long after they were cancelled.
    pub(super) overdue: usize,
    /// Grants that it was given.
    pub(super) given: HashMap<u64, Given>,
    /// Interfaces that it provides.
    registrations: usize,
    /// Calls that it was given.
    pub(super) made: u64,
}

/// A peer wants to provide something.
#[derive(Debug, Clone)]
pub(crate) struct Registering {
    /// The peer.
    pub(crate) peer: PeerId,
    /// What.
    pub(crate) interface: Arc<ProvidedInterface>,
    /// Whether it takes the name from whoever has it.
    pub(crate) take_over: bool,
}

/// A command that is provided now.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// The command.
    pub(crate) command: Arc<ProvidedCommand>,
    /// The major version of the plugin.
    pub(crate) major: u64,
    /// Who provides it.
    pub(crate) peer: PeerId,
}

impl Broker {
    /// Counts an attempt to register. To be asked before anything of it is read.
    ///
    /// # Errors
    /// `resource_exhausted`, with when to come again.
    pub(crate) fn count_registration(&mut self, now: Instant, peer: PeerId) -> Result<(), Fault> {
        const SECOND: Duration = Duration::from_secs(1);
        let uid = self.peers.get(&peer).map(|state| state.peer.uid).ok_or_else(gone)?;
        let most = self.settings.providers.registrations_per_second;
        let rates = &mut self.providers.rates;
        // Uids come and go; those without a registration in this second leave nothing behind.
        rates.retain(|_, rate| now.duration_since(rate.since) < SECOND);
        let rate = rates.entry(uid).or_insert(Rate { since: now, count: 0 });
        if rate.count >= most {
            let text = format!("more than {most} registrations of this uid within a second");
            let fault = Fault::refusal(ErrorCode::ResourceExhausted, text);
            return Err(fault.with_retry_after(SECOND.saturating_sub(now.duration_since(rate.since))));
        }
        rate.count += 1;
        Ok(())
    }

    /// Whether a peer may provide something now.
    ///
    /// # Errors
    /// `permission_denied` if no capability lets it, `already_exists` if another peer has the name and it doesn't take over,
    /// `resource_exhausted` if it provides too much already.
    pub(crate) fn check_registration(&mut self, now: Instant, asked: &Registering) -> Result<(), Fault> {
        let Registering { peer, interface, take_over } = asked;
        let (plugin, major) = (interface.plugin(), interface.major());
        let most = self.settings.providers.registrations;
        let state = self.refresh(*peer).ok_or_else(gone)?;
        if !state.grants.may_provide(plugin) {
            return Err(self.deny_providing(now, *peer, plugin));
        }
        let registrations = state.serving.registrations;
        match self.providers.find(plugin, major) {
            Some(registration) if registration.peer == *peer => Ok(()),
            Some(_) if !take_over => {
                let text =
                    format!("another peer provides {} now; \"takeOver\" takes it", versioned(plugin, major));
                Err(Fault::refusal(ErrorCode::AlreadyExists, text))
            }
            _ if registrations >= most => {
                let text = format!("this connection provides {most} interfaces already");
                Err(Fault::refusal(ErrorCode::ResourceExhausted, text))
            }
            _ => Ok(()),
        }
    }

    /// Lets a peer serve what it registers. Who served it until now finishes its open calls.
    ///
    /// # Errors
    /// As [`check_registration`](Self::check_registration).
    pub(crate) fn register(&mut self, now: Instant, asked: &Registering) -> Result<(), Fault> {
        self.check_registration(now, asked)?;
        let Registering { peer, interface, .. } = asked;
        self.remove_registration(interface.plugin(), interface.major());
        let registration = Registration { peer: *peer, interface: Arc::clone(interface) };
        let majors = self.providers.served.entry(interface.plugin().to_owned()).or_default();
        majors.insert(interface.major(), registration);
        if let Some(state) = self.peers.get_mut(peer) {
            state.serving.registrations += 1;
        }
        self.stats.registrations += 1;
        Ok(())
    }

    /// A peer serves something no more. Its open calls go on.
    ///
    /// # Errors
    /// `not_found` if it doesn't provide that.
    pub(crate) fn withdraw(&mut self, peer: PeerId, plugin: &str, major: u64) -> Result<(), Fault> {
        match self.providers.find(plugin, major) {
            Some(registration) if registration.peer == peer => {
                self.remove_registration(plugin, major);
                Ok(())
            }
            _ => {
                let text = format!("this connection does not provide {}", versioned(plugin, major));
                Err(Fault::refusal(ErrorCode::NotFound, text))
            }
        }
    }

    /// What is provided under a name now, in the highest version that has it.
    pub(crate) fn provided(&self, name: &str) -> Option<Listed> {
        let plugin = self.policy.registry().command(name)?.plugin()?;
        let majors = self.providers.served.get(plugin)?;
        majors.iter().rev().find_map(|(major, registration)| {
            let command = Arc::clone(registration.interface.command(name)?);
            Some(Listed { command, major: *major, peer: registration.peer })
        })
    }

    /// All commands that are provided now, each in its highest version, by name.
    pub(crate) fn all_provided(&self) -> BTreeMap<String, Listed> {
        let mut all = BTreeMap::new();
        for (major, Registration { peer, interface }) in self.providers.served.values().flatten() {
            for command in interface.commands() {
                let listed = Listed { command: Arc::clone(command), major: *major, peer: *peer };
                all.insert(command.name().as_str().to_owned(), listed);
            }
        }
        all
    }

    /// The plugins that are provided now, with their versions.
    pub(crate) fn registrations(&self) -> Vec<(String, u64)> {
        let served = self.providers.served.iter();
        served.flat_map(|(plugin, majors)| majors.keys().map(|major| (plugin.clone(), *major))).collect()
    }

    /// Takes back what a peer provides and no capability lets it provide any more.
    pub(super) fn withdraw_ungranted(&mut self, peer: PeerId) {
        let Some(state) = self.peers.get(&peer).filter(|state| state.serving.registrations > 0) else {
            return;
        };
        let grants = Arc::clone(&state.grants);
        for (plugin, major) in self.providers.of(peer) {
            if !grants.may_provide(&plugin) {
                self.remove_registration(&plugin, major);
            }
        }
    }

    /// Takes back all that a peer provides.
    pub(super) fn withdraw_all(&mut self, peer: PeerId) {
        for (plugin, major) in self.providers.of(peer) {
            self.remove_registration(&plugin, major);
        }
    }

    /// Who is to serve a call that its caller may make.
    pub(super) fn find_provider(&mut self, call: &Call) -> Result<Callee, Ending> {
        let name = &call.command;
        let refusal = |code, text: &str| Ending::framework(code, text, Delivery::NotDelivered);
        let wanted = match major_of(call) {
            Ok(wanted) => wanted,
            Err(text) => return Err(refusal(ErrorCode::InvalidArgument, text)),
        };
        let plugin = self.policy.registry().command(name).and_then(|name| name.plugin()).unwrap_or("");
        let majors = self.providers.served.get(plugin);
        let serves = |registration: &&Registration| registration.interface.command(name).is_some();
        let found = match wanted {
            Some(major) => majors.and_then(|majors| majors.get(&major)),
            None => {
                majors.and_then(|majors| majors.values().rev().find(serves).or(majors.values().next_back()))
            }
        };
        let Some(registration) = found else {
            let text = match wanted {
                Some(major) => format!("nobody provides {} now", versioned(plugin, major)),
                None => format!("nobody provides \"{plugin}\" now"),
            };
            return Err(refusal(ErrorCode::Unavailable, &text));
        };
        let Some(command) = registration.interface.command(name) else {
            let text = format!("the provider of \"{plugin}\" does not serve {name}");
            return Err(refusal(ErrorCode::Unimplemented, &text));
        };
        let (peer, command, plugin) = (registration.peer, Arc::clone(command), plugin.to_owned());
        self.check_provider(peer, &plugin).map_err(|(code, text)| refusal(code, &text))?;
        Ok(Callee::Provided(peer, command))
    }

    /// Whether a provider may be given one more call.
    pub(super) fn check_provider(&mut self, peer: PeerId, plugin: &str) -> Result<(), (ErrorCode, String)> {
        let most = self.settings.providers.calls;
        let is_granted = self.refresh(peer).is_some_and(|state| state.grants.may_provide(plugin));
        if !is_granted {
            return Err((ErrorCode::Unavailable, format!("nobody provides \"{plugin}\" now")));
        }
        let Some(Serving { open, overdue, .. }) = self.peers.get(&peer).map(|state| &state.serving) else {
            return Err((ErrorCode::Unavailable, "the provider went away".to_owned()));
        };
        if *overdue >= most.div_ceil(4) {
            let text = format!("the provider of \"{plugin}\" does not end calls that were cancelled");
            return Err((ErrorCode::Unavailable, text));
        }
        if *open >= most {
            let text = format!("the provider of \"{plugin}\" has {most} calls already");
            return Err((ErrorCode::ResourceExhausted, text));
        }
        Ok(())
    }

    /// Whether a provider must be told by the header which of its versions is meant.
    pub(super) fn serves_several(&self, peer: PeerId, plugin: &str) -> bool {
        let majors = self.providers.served.get(plugin);
        majors.is_some_and(|majors| majors.values().filter(|served| served.peer == peer).count() > 1)
    }

    pub(super) fn remove_registration(&mut self, plugin: &str, major: u64) {
        let Some(majors) = self.providers.served.get_mut(plugin) else { return };
        if let Some(registration) = majors.remove(&major)
            && let Some(state) = self.peers.get_mut(&registration.peer)
        {
            state.serving.registrations -= 1;
        }
        if majors.is_empty() {
            self.providers.served.remove(plugin);
        }
    }

    fn deny_providing(&mut self, now: Instant, peer: PeerId, plugin: &str) -> Fault {
        let text = format!("this peer may not provide \"{plugin}\"");
        let mut fault = Fault::refusal(ErrorCode::PermissionDenied, text);
        let asked = Text::from(format!("core.provide {plugin}").as_str());
        fault.decision = self.deny(now, peer, &asked, None).map(|id| id.to_string());
        fault
    }
}

impl Providers {
    /// How many interfaces are provided.
    pub(super) fn len(&self) -> usize {
        self.served.values().map(BTreeMap::len).sum()
    }

    /// Whether a plugin is provided, in whatever version.
    pub(super) fn is_provided(&self, plugin: &str) -> bool {
        self.served.get(plugin).is_some_and(|majors| !majors.is_empty())
    }

    /// The versions that are provided of a plugin.
    pub(super) fn majors_of(&self, plugin: &str) -> Vec<u64> {
        self.served.get(plugin).into_iter().flat_map(BTreeMap::keys).copied().collect()
    }

    /// Who provides a plugin.
    pub(super) fn peers_of(&self, plugin: &str) -> BTreeSet<PeerId> {
        self.served.get(plugin).into_iter().flat_map(BTreeMap::values).map(|of| of.peer).collect()
    }

    fn find(&self, plugin: &str, major: u64) -> Option<&Registration> {
        self.served.get(plugin)?.get(&major)
    }

    /// What a peer provides.
    fn of(&self, peer: PeerId) -> Vec<(String, u64)> {
        let all = self.served.iter().flat_map(|(plugin, majors)| majors.iter().map(move |m| (plugin, m)));
        let of_peer = all.filter(|(_, (_, registration))| registration.peer == peer);
        of_peer.map(|(plugin, (major, _))| (plugin.clone(), *major)).collect()
    }
}

/// The version that a call asks for.
fn major_of(call: &Call) -> Result<Option<u64>, &'static str> {
    let mut said = call.headers.iter().filter(|(key, _)| key.as_str() == MAJOR_HEADER);
    let Some((_, value)) = said.next() else { return Ok(None) };
    if said.next().is_some() {
        return Err("the header :major stands twice");
    }
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    let major = value.parse().ok().filter(|_| is_number);
    major.map(Some).ok_or("the header :major is a number: the major version of the plugin")
}

fn versioned(plugin: &str, major: u64) -> String {
    format!("\"{plugin}\" in version {major}")
}

fn gone() -> Fault {
    Fault::refusal(ErrorCode::Unavailable, "the connection is going away")
}
