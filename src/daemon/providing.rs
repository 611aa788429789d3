//! Peers that begin to provide something: what they register is read, made known to the policy, then served.
//!
//! Owns the order of these steps. The policy is compiled elsewhere and swapped, as for a reload; for an interface that it knows
//! already, as that of a provider that has come back, nothing is compiled.

use std::sync::Arc;
use std::time::Instant;

use invoked_proto::registry::ErrorCode;

use super::handle::DaemonHandle;
use super::policy_source::{Parts, PolicySource, Proposal, Registered};
use crate::authority::{PolicyError, ProvidedInterface};
use crate::broker::Registering;
use crate::ipc::{Fault, PeerId};

/// What interfaces are held to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InterfaceBounds {
    /// Commands of one.
    pub(crate) commands: usize,
    /// Those that are known at once.
    pub(crate) known: usize,
}

impl DaemonHandle {
    /// Notes that a peer wants to provide something. To be asked before anything of it is read.
    ///
    /// # Errors
    /// `resource_exhausted` if its uid has asked too often, `failed_precondition` if it can't be called.
    pub(crate) async fn begin_providing(&self, peer: PeerId) -> Result<(), Fault> {
        let begun = self.ask(move |hub| {
            hub.with_broker_mut(|broker| broker.count_registration(Instant::now(), peer))?;
            if hub.may_be_called(peer) {
                return Ok(());
            }
            let text = "this connection did not offer to be called (feature PROVIDE)";
            Err(Fault::refusal(ErrorCode::FailedPrecondition, text))
        });
        begun.await.ok_or_else(stopping)?
    }

    /// Lets a peer of `uid` serve what the text of an interface says; what that is.
    ///
    /// # Errors
    /// `invalid_argument` if the interface is not sound, and those of [`Broker::register`](crate::broker::Broker::register).
    pub(crate) async fn provide(
        &self,
        (peer, uid): (PeerId, u32),
        text: String,
        take_over: bool,
        bounds: InterfaceBounds,
    ) -> Result<Arc<ProvidedInterface>, Fault> {
        let reading = tokio::task::spawn_blocking(move || read(&text, bounds.commands));
        let interface = Arc::new(reading.await.map_err(|_| stopping())??);
        if self.source().hosts(interface.plugin()) {
            let text = format!("the plugin {:?} is this daemon's own", interface.plugin());
            return Err(Fault::refusal(ErrorCode::AlreadyExists, text));
        }
        let asked = Registering { peer, interface: Arc::clone(&interface), take_over };
        let check = asked.clone();
        let checked = self
            .ask(move |hub| hub.with_broker_mut(|broker| broker.check_registration(Instant::now(), &check)));
        checked.await.ok_or_else(stopping)??;
        self.make_known(Registered { interface: Arc::clone(&interface), uid }, bounds.known).await?;
        let registered = self.ask(move |hub| {
            let registered = hub.with_broker_mut(|broker| broker.register(Instant::now(), &asked));
            hub.note_provided();
            registered
        });
        registered.await.ok_or_else(stopping)??;
        Ok(interface)
    }

    /// A peer serves something no more.
    ///
    /// # Errors
    /// `not_found` if it doesn't provide it.
    pub(crate) async fn withdraw(&self, peer: PeerId, plugin: String, major: u64) -> Result<(), Fault> {
        let withdrawn =
            self.ask(move |hub| hub.with_broker_mut(|broker| broker.withdraw(peer, &plugin, major)));
        withdrawn.await.ok_or_else(stopping)?
    }

    /// Makes an interface known to the policy, unless it is.
    async fn make_known(&self, registered: Registered, most: usize) -> Result<(), Fault> {
        if is_known(&self.source().parts(), &registered) {
            return Ok(());
        }
        let _turn = self.turn().await.ok_or_else(stopping)?;
        let mut parts = self.source().parts();
        if is_known(&parts, &registered) {
            return Ok(());
        }
        let live =
            self.ask(|hub| hub.with_broker(|broker| broker.registrations())).await.ok_or_else(stopping)?;
        let is_live = |known: &Registered| {
            let (plugin, major) = (known.interface.plugin(), known.interface.major());
            live.iter().any(|(of, version)| of == plugin && *version == major)
        };
        parts.registered.retain(|known| !known.is_of_name(&registered));
        while parts.registered.len() >= most {
            // The oldest that nobody provides any more.
            let Some(at) = parts.registered.iter().position(|known| !is_live(known)) else {
                let text = format!("{most} interfaces are provided already");
                return Err(Fault::refusal(ErrorCode::ResourceExhausted, text));
            };
            parts.registered.remove(at);
        }
        parts.registered.push(registered);
        let source = Arc::clone(self.source());
        let proposing = tokio::task::spawn_blocking(move || propose(&source, parts));
        let proposal = proposing.await.map_err(|_| stopping())??;
        let reloaded = self.put_in_force(proposal).await.ok_or_else(stopping)?;
        tracing::info!(revision = reloaded.revision, "the policy knows what a peer provides");
        Ok(())
    }
}

fn is_known(parts: &Parts, registered: &Registered) -> bool {
    parts.registered.iter().any(|known| known.is_same(registered))
}

fn read(text: &str, most: usize) -> Result<ProvidedInterface, Fault> {
    let interface = ProvidedInterface::parse(text).map_err(|errors| unsound(&errors))?;
    let count = interface.len();
    if count > most {
        let text = format!("an interface of {count} commands is above the limit of {most}");
        return Err(Fault::refusal(ErrorCode::ResourceExhausted, text));
    }
    Ok(interface)
}

fn propose(source: &PolicySource, parts: Parts) -> Result<Proposal, Fault> {
    source.propose(parts).map_err(|errors| unsound(&errors))
}

fn unsound(errors: &[PolicyError]) -> Fault {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Fault::refusal(ErrorCode::InvalidArgument, lines.join("\n"))
}

fn stopping() -> Fault {
    Fault::refusal(ErrorCode::Unavailable, "the daemon is stopping")
}
