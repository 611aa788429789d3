//! Scopes in the form that one type gives their values, read once and kept.
//!
//! Owns the verdict over values: which deny, which allow. What is kept belongs to one grant, or to one plugin of one
//! peer, and is told apart by type within that only.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use super::{
    GrantScope, ScopeContext, ScopeDefault, ScopeDenial, ScopeError, ScopeObject, ScopeObjectMatch,
    ScopeRole, ScopeVerdict,
};

/// The scope of a command, or of a plugin, as values of `S`.
#[derive(Debug)]
pub struct CompiledScope<S> {
    allow: Vec<Arc<S>>,
    deny: Vec<Arc<S>>,
    /// Where each of `deny` is written: the scope and the index in its list.
    places: Vec<(Arc<GrantScope>, usize)>,
    /// The first deny value that `S` can't read. It denies everything.
    unreadable: Option<ScopeDenial>,
    everything: bool,
}

impl<S> CompiledScope<S> {
    fn empty() -> Self {
        let (allow, deny, places) = (Vec::new(), Vec::new(), Vec::new());
        CompiledScope { allow, deny, places, unreadable: None, everything: false }
    }

    /// The scope of a command that looks at none.
    pub(crate) fn everything() -> Self {
        CompiledScope { everything: true, ..Self::empty() }
    }

    /// The values of which one must match, unless [`allows_everything`](Self::allows_everything). A value that `S`
    /// can't read is not among them: it matches nothing.
    #[must_use]
    pub fn allows(&self) -> &[Arc<S>] {
        &self.allow
    }

    /// The values of which none may match, whatever else is allowed.
    #[must_use]
    pub fn denies(&self) -> &[Arc<S>] {
        &self.deny
    }

    /// Whether whatever is not denied is allowed: some grant has no scope, and the plugin's default is everything.
    #[must_use]
    pub fn allows_everything(&self) -> bool {
        self.everything
    }
}

impl<S: ScopeObject> CompiledScope<S> {
    /// The scope of a command's grants. A grant without `allow` has the plugin's default.
    pub(crate) fn of_command(
        scopes: &[Arc<GrantScope>],
        default: &ScopeDefault,
        context: &ScopeContext,
    ) -> Self {
        let mut compiled = Self::of_plugin(scopes, context);
        if scopes.iter().any(|scope| scope.lists.allow.is_none()) {
            match default {
                ScopeDefault::Everything => compiled.everything = true,
                ScopeDefault::Nothing => {}
                ScopeDefault::Items(items) => compiled.allow.extend(
                    items.iter().filter_map(|v| S::parse(v, ScopeRole::Allow, context).ok()).map(Arc::new),
                ),
            }
        }
        compiled
    }

    /// The scope of scope-only permissions: what is not written adds nothing.
    pub(crate) fn of_plugin(scopes: &[Arc<GrantScope>], context: &ScopeContext) -> Self {
        let mut compiled = Self::empty();
        for scope in scopes {
            for (item, written) in scope.lists.deny.iter().enumerate() {
                match S::parse(written.value(), ScopeRole::Deny, context) {
                    Ok(object) => {
                        compiled.deny.push(Arc::new(object));
                        compiled.places.push((Arc::clone(scope), item));
                    }
                    Err(error) => {
                        let denial = || denied_by(scope, item, Some(error));
                        compiled.unreadable.get_or_insert_with(denial);
                    }
                }
            }
            let allow = scope.lists.allow.iter().flatten();
            let allow = allow.filter_map(|item| S::parse(item.value(), ScopeRole::Allow, context).ok());
            compiled.allow.extend(allow.map(Arc::new));
        }
        compiled
    }

    /// Itself, unless a deny value has no meaning: who looks through the lists by hand would not see that one.
    pub(crate) fn readable(self: &Arc<Self>) -> Result<&Arc<Self>, ScopeDenial> {
        self.unreadable.clone().map_or(Ok(self), Err)
    }
}

impl<S: ScopeObjectMatch> CompiledScope<S> {
    /// Whether this scope alone allows `input`. What a command may touch is decided by the scopes of the command and
    /// of its plugin together: [`Grant::check`](crate::authority::Grant::check).
    pub fn check(&self, input: &S::Input) -> ScopeVerdict {
        judge(&[self], input)
    }

    /// The deny value that refuses `input`, whatever is allowed.
    pub(crate) fn denial(&self, input: &S::Input) -> Option<ScopeDenial> {
        if self.unreadable.is_some() {
            return self.unreadable.clone();
        }
        let at = self.deny.iter().position(|value| value.matches(input))?;
        let (scope, item) = &self.places[at];
        Some(denied_by(scope, *item, None))
    }

    fn allows_input(&self, input: &S::Input) -> bool {
        self.everything || self.allow.iter().any(|value| value.matches(input))
    }
}

fn denied_by(scope: &Arc<GrantScope>, item: usize, invalid: Option<ScopeError>) -> ScopeDenial {
    ScopeDenial::DeniedBy { scope: Arc::clone(scope), item, invalid }
}

/// The verdict of several scopes together: none may deny, one must allow.
pub(crate) fn judge<S: ScopeObjectMatch>(scopes: &[&CompiledScope<S>], input: &S::Input) -> ScopeVerdict {
    if let Err(error) = S::admit(input) {
        return ScopeVerdict::Denied(ScopeDenial::Input(error));
    }
    if let Some(denial) = scopes.iter().find_map(|scope| scope.denial(input)) {
        return ScopeVerdict::Denied(denial);
    }
    if scopes.iter().any(|scope| scope.allows_input(input)) {
        ScopeVerdict::Allowed
    } else {
        ScopeVerdict::Denied(ScopeDenial::NoneMatches)
    }
}

/// Scope-only permissions of one plugin, as one peer holds them.
#[derive(Debug)]
pub(crate) struct PluginScope {
    scopes: Box<[Arc<GrantScope>]>,
    context: Arc<ScopeContext>,
    typed: TypedScopes,
}

impl PluginScope {
    pub(crate) fn new(scopes: Vec<Arc<GrantScope>>, context: Arc<ScopeContext>) -> Self {
        PluginScope { scopes: scopes.into(), context, typed: TypedScopes::default() }
    }

    pub(crate) fn scopes(&self) -> &[Arc<GrantScope>] {
        &self.scopes
    }

    pub(crate) fn compiled<S: ScopeObject>(&self) -> &Arc<CompiledScope<S>> {
        self.typed.get(|| CompiledScope::of_plugin(&self.scopes, &self.context))
    }
}

/// The same values read as each type that was asked for: a list as long as the program has scope types for them,
/// which is one or two.
#[derive(Default)]
pub(crate) struct TypedScopes {
    /// An `Arc<CompiledScope<S>>` of some `S`.
    first: OnceLock<Box<dyn Any + Send + Sync>>,
    rest: OnceLock<Box<TypedScopes>>,
}

impl TypedScopes {
    pub(crate) fn get<S: ScopeObject>(&self, read: impl Fn() -> CompiledScope<S>) -> &Arc<CompiledScope<S>> {
        let mut list = self;
        loop {
            let any = list.first.get_or_init(|| Box::new(Arc::new(read())));
            match any.downcast_ref() {
                Some(compiled) => return compiled,
                None => list = list.rest.get_or_init(Box::default),
            }
        }
    }
}

impl std::fmt::Debug for TypedScopes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TypedScopes").finish_non_exhaustive()
    }
}
