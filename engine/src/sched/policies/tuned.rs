//! What can be had on top of any ranked policy: another victim, reservations, a steady pace.

use super::pace::Pace;
use super::reserve::{Reservation, Reserve};
use super::victim::{VictimChoice, Victims};
use crate::sched::PolicyOptions;
use crate::sched::{
    Admit, Displacement, Limits, Policy, PolicyContext, PolicyError, PolicyRequest, Rank, Refresh,
    SchedEvent, Victim, View,
};
use crate::types::{Nanos, SequenceId};

/// A policy with some of its decisions taken by others.
pub struct Tuned {
    inner: Box<dyn Policy>,
    victims: Option<Victims>,
    reservation: Option<Reservation>,
    pace: Option<Pace>,
}

impl std::fmt::Debug for Tuned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tuned")
            .field("inner", &self.inner.name())
            .field("victims", &self.victims)
            .field("reservation", &self.reservation)
            .field("pace", &self.pace)
            .finish()
    }
}

impl Tuned {
    /// `inner` as it is.
    #[must_use]
    pub fn new(inner: Box<dyn Policy>) -> Self {
        Self { inner, victims: None, reservation: None, pace: None }
    }

    /// Lets `choice` say who gives way.
    #[must_use]
    pub fn with_victim(self, choice: VictimChoice) -> Self {
        Self { victims: Some(Victims::new(choice)), ..self }
    }

    /// Takes requests in only where there is room for what `reserve` says.
    #[must_use]
    pub fn with_reserve(self, reserve: Reserve) -> Self {
        Self { reservation: Some(Reservation::new(reserve)), ..self }
    }

    /// Keeps steps with decoding sequences within `tpot`: by the cost model of `context`, or by
    /// trial.
    #[must_use]
    pub fn with_pace(self, tpot: Nanos, context: &PolicyContext) -> Self {
        Self { pace: Some(Pace::new(tpot, context.cost.clone())), ..self }
    }

    /// `policy` with what the keys `victim`, `reserve` and `tpot` say.
    pub(super) fn from_options(
        policy: Box<dyn Policy>,
        options: &mut PolicyOptions<'_>,
        context: &PolicyContext,
    ) -> Result<Box<dyn Policy>, PolicyError> {
        let victim = VictimChoice::from_options(options)?;
        let reserve = Reserve::from_options(options, context)?;
        let tpot = options.duration("tpot")?;
        if victim.is_none() && reserve.is_none() && tpot.is_none() {
            return Ok(policy);
        }
        let mut tuned = Self::new(policy);
        if let Some(choice) = victim {
            tuned = tuned.with_victim(choice);
        }
        if let Some(reserve) = reserve {
            tuned = tuned.with_reserve(reserve);
        }
        if let Some(tpot) = tpot {
            tuned = tuned.with_pace(tpot, context);
        }
        Ok(Box::new(tuned))
    }
}

impl Policy for Tuned {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Rank {
        self.inner.rank(request, view)
    }

    fn refresh(&self) -> Refresh {
        self.inner.refresh()
    }

    fn displacement(&self) -> Displacement {
        self.inner.displacement()
    }

    fn limits(&mut self, view: &View<'_>) -> Limits {
        let limits = self.inner.limits(view);
        match &mut self.pace {
            Some(pace) => pace.limit(limits, view),
            None => limits,
        }
    }

    fn admit(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Admit {
        let answer = self.inner.admit(request, view);
        match &mut self.reservation {
            Some(reservation) => reservation.admit(answer, *request, view),
            None => answer,
        }
    }

    fn victim(&mut self, candidates: &[SequenceId], view: &View<'_>) -> Option<Victim> {
        match &self.victims {
            Some(victims) => victims.choose(candidates, view),
            None => self.inner.victim(candidates, view),
        }
    }

    fn observe(&mut self, event: &SchedEvent, view: &View<'_>) {
        self.inner.observe(event, view);
        if let Some(victims) = &mut self.victims {
            victims.observe(event);
        }
        if let Some(reservation) = &mut self.reservation {
            reservation.observe(event, view);
        }
        if let Some(pace) = &mut self.pace {
            pace.observe(event, view);
        }
    }
}
