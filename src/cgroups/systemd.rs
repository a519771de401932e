//! Asking systemd for the unit that holds a container, for other limits, and for its end.
//!
//! One connection for each, and one write for all that is asked, greeting included; each wait
//! has a bound and says for whom. A unit of the same name may be another's: once it is started
//! ours is addressed by its invocation, which no other unit ever has.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, bail};
use ferrun_dbus::{
    Address, Call, Connection, Error as BusError, Kind, Message, Peer, Value, addresses,
};

use super::{checked, memberships, read_bytes};
use crate::error;
use crate::log;
use crate::plan::cgroup::devices::Kind as DeviceKind;
use crate::plan::cgroup::unit::{Manager, Place, Property, Systemd, Unit, UnitPlan};
use crate::plan::cgroup::{Directory, Layout, Version};

/// How long systemd may take: a reload of its configuration holds up everything for seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// After how long without a word the kernel is asked instead.
const A_WHILE: Duration = Duration::from_millis(500);
/// The result of a job that did what it was to do.
const DONE: &str = "done";

/// Whom all calls are for, on a bus.
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const BUS: &str = "org.freedesktop.DBus";
/// Without this a bus tells nobody that a job is done.
const JOB_REMOVED: &str = "type='signal',sender='org.freedesktop.systemd1',\
    interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// Where the caller's environment says that buses are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Buses {
    /// DBUS_SYSTEM_BUS_ADDRESS.
    pub system: Option<String>,
    /// DBUS_SESSION_BUS_ADDRESS.
    pub session: Option<String>,
    /// XDG_RUNTIME_DIR.
    pub runtime_directory: Option<PathBuf>,
}

/// Looks which systemd there is for the caller, `is_root` of the machine or an ordinary user.
pub fn look(buses: &Buses, is_root: bool, layout: &Layout) -> Result<Systemd> {
    if !matches!(layout, Layout::V2(_)) {
        return Err(error::Kind::Unsupported.error(
            "--systemd-cgroup: this machine has cgroup v1, where systemd cannot be asked: boot with systemd.unified_cgroup_hierarchy=1, or let the engine use cgroupfs",
        ));
    }
    // sd_booted(3)
    if !Path::new("/run/systemd/system").is_dir() {
        let text = "--systemd-cgroup: systemd does not run here: let the engine use cgroupfs";
        return Err(error::Kind::Unsupported.error(text));
    }
    let (manager, places) = if is_root {
        let bus = buses.system.as_deref().unwrap_or("unix:path=/run/dbus/system_bus_socket");
        let own = Place::Own("/run/systemd/private".into());
        (Manager::System, vec![Place::Bus(bus.to_owned()), own])
    } else {
        (Manager::User, places_of_user(buses)?)
    };
    Ok(Systemd { manager, places, group: group_of_manager(manager), majors: majors()? })
}

fn places_of_user(buses: &Buses) -> Result<Vec<Place>> {
    let directory = buses.runtime_directory.as_deref();
    let bus = match (&buses.session, directory.and_then(Path::to_str)) {
        (Some(address), _) => Some(address.clone()),
        (None, Some(directory)) => Some(format!("unix:path={}/bus", escape(directory))),
        (None, None) => None,
    };
    let own = directory.map(|directory| Place::Own(directory.join("systemd/private")));
    let places: Vec<_> = bus.map(Place::Bus).into_iter().chain(own).collect();
    if places.is_empty() {
        bail!(
            "--systemd-cgroup: no systemd of this user: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set (log in, or loginctl enable-linger; or let the engine use cgroupfs)"
        );
    }
    Ok(places)
}

/// A path as a value of an address: what is not plain, by its number.
fn escape(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'/' | b'.' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02x}"),
        })
        .collect()
}

/// The group below which a systemd has its units: the machine's where its own process is, a
/// user's where that is by convention. What it really is tells the container's process later.
fn group_of_manager(manager: Manager) -> PathBuf {
    let member = |file: &str| {
        let groups = read_bytes(Path::new(file)).ok()?;
        let unified = memberships(&groups).find(|member| member.controllers.is_empty())?;
        String::from_utf8(unified.path.to_vec()).ok()
    };
    match manager {
        Manager::System => {
            let path = member("/proc/1/cgroup");
            path.and_then(|path| Some(path.strip_suffix("/init.scope")?.to_owned()))
                .filter(|path| !path.is_empty())
                .map_or_else(|| "/".into(), PathBuf::from)
        }
        Manager::User => {
            let own = member("/proc/self/cgroup").unwrap_or_default();
            of_user(&own)
        }
    }
}

/// The group of the systemd of the user whose session or service is in the group `own`.
fn of_user(own: &str) -> PathBuf {
    let mut path = PathBuf::from("/");
    for part in own.split('/').filter(|part| !part.is_empty()) {
        path.push(part);
        if part.starts_with("user@") && part.ends_with(".service") {
            return path;
        }
        let number = part.strip_prefix("user-").and_then(|rest| rest.strip_suffix(".slice"));
        if let Some(uid) = number
            && !own.contains("/user@")
        {
            path.push(format!("user@{uid}.service"));
            return path;
        }
    }
    let uid = rustix::process::getuid().as_raw();
    format!("/user.slice/user-{uid}.slice/user@{uid}.service").into()
}

/// The names of drivers by the majors of their devices.
pub fn majors() -> Result<Vec<(DeviceKind, u32, String)>> {
    Ok(parse_majors(&fs::read_to_string("/proc/devices").context("/proc/devices")?))
}

/// The lines of /proc/devices: `136 pts` below a title.
fn parse_majors(text: &str) -> Vec<(DeviceKind, u32, String)> {
    let mut kind = DeviceKind::Char;
    let mut majors = Vec::new();
    for line in text.lines() {
        match line {
            "Character devices:" => kind = DeviceKind::Char,
            "Block devices:" => kind = DeviceKind::Block,
            line => {
                let mut words = line.split_whitespace();
                let number = words.next().and_then(|word| word.parse().ok());
                if let (Some(number), Some(name)) = (number, words.next()) {
                    majors.push((kind, number, name.to_owned()));
                }
            }
        }
    }
    majors
}

/// What a bus says of a systemd that starts itself over.
const UNANSWERED: [&str; 2] = ["NoReply", "Disconnected"];

/// What systemd says no with.
#[derive(Debug)]
struct Refusal {
    name: String,
    text: String,
}

impl Refusal {
    fn is(&self, names: &[&str]) -> bool {
        names
            .iter()
            .any(|name| self.name.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')))
    }

    fn into_error(self) -> Error {
        if self.is(&UNANSWERED) {
            return Error::new(BusError::Closed).context(format!("systemd: {}", self.text));
        }
        Error::msg(match self.is(&["AccessDenied", "InteractiveAuthorizationRequired"]) {
            true => format!("systemd refuses it to this user: {}", self.text),
            false => format!("systemd: {}", self.text),
        })
    }
}

/// Whether a connection ended without an answer, as where systemd starts itself over.
fn was_closed(error: &Error) -> bool {
    error.downcast_ref::<BusError>().is_some_and(|error| matches!(error, BusError::Closed))
}

/// Does it once more where the connection was closed. Only for what may be done twice.
fn twice<T>(mut act: impl FnMut() -> Result<T>) -> Result<T> {
    act().or_else(|error| if was_closed(&error) { act() } else { Err(error) })
}

/// A job that has ended, by its path.
struct Ended {
    job: String,
    result: String,
    sender: Option<String>,
}

/// A conversation with a systemd.
#[derive(Debug)]
struct Talk {
    connection: Connection,
    is_on_bus: bool,
    /// The calls whose answers nobody waits for, but which have to succeed.
    preliminary: Vec<u32>,
    deadline: Instant,
}

impl Talk {
    fn with(unit: &Unit) -> Result<Self> {
        let uid = match unit.manager {
            Manager::System => 0,
            Manager::User => rustix::process::geteuid().as_raw(),
        };
        let mut reason = None;
        for place in &unit.places {
            let (found, is_on_bus) = match place {
                Place::Bus(list) => (addresses(list)?, true),
                Place::Own(path) => (vec![Address::Path(path.clone())], false),
            };
            for address in found {
                match Connection::open(&address, Peer { uid }) {
                    Ok(connection) => return Self::begin(connection, is_on_bus),
                    Err(error) => {
                        log::debug(|| format!("{address}: {error}"));
                        reason
                            .get_or_insert_with(|| Error::new(error).context(address.to_string()));
                    }
                }
            }
        }
        let reason = reason.unwrap_or_else(|| Error::msg("no address is known"));
        Err(reason.context(match unit.manager {
            Manager::System => "systemd cannot be reached (is dbus running?)",
            Manager::User => {
                "the user's systemd cannot be reached (is dbus-user-session installed?)"
            }
        }))
    }

    fn begin(connection: Connection, is_on_bus: bool) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let mut talk = Self { connection, is_on_bus, preliminary: Vec::new(), deadline };
        if !is_on_bus {
            talk.connection.greet(deadline).map_err(|error| talk.explain(error))?;
        } else {
            for (member, arguments) in
                [("Hello", vec![]), ("AddMatch", vec![Value::text(JOB_REMOVED)])]
            {
                let path = "/org/freedesktop/DBus";
                let call = Call { destination: Some(BUS), path, interface: BUS, member, arguments };
                talk.preliminary.push(talk.connection.call(&call));
            }
        }
        Ok(talk)
    }

    fn call(&mut self, path: &str, interface: &str, member: &str, arguments: Vec<Value>) -> u32 {
        let destination = self.is_on_bus.then_some(SYSTEMD);
        self.connection.call(&Call { destination, path, interface, member, arguments })
    }

    fn flush(&mut self) -> Result<()> {
        self.connection.flush(self.deadline).map_err(|error| self.explain(error))
    }

    fn explain(&self, error: BusError) -> Error {
        match error {
            BusError::Late => {
                Error::msg(format!("systemd gave no answer in {} s", PATIENCE.as_secs()))
            }
            BusError::Closed => Error::new(error).context("systemd"),
            other => Error::new(other).context("systemd"),
        }
    }

    /// The next message; None where none has come for a while.
    fn message(&mut self) -> Result<Option<Message>> {
        let look = Instant::now() + A_WHILE;
        match self.connection.receive(look.min(self.deadline)) {
            Ok(message) => Ok(Some(message)),
            Err(BusError::Late) if Instant::now() < self.deadline => Ok(None),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// What a message says to the call `serial`, if it is the answer. A job that it says has
    /// ended is noted in `ended`.
    fn answer_in(
        &self,
        message: Message,
        serial: u32,
        ended: &mut Vec<Ended>,
    ) -> Result<Option<Result<Message, Refusal>>> {
        let is_ours = message.reply_to == Some(serial);
        match message.kind {
            Kind::Return if is_ours => return Ok(Some(Ok(message))),
            Kind::Error if is_ours => return Ok(Some(Err(refusal(&message)))),
            Kind::Error if message.reply_to.is_some_and(|to| self.preliminary.contains(&to)) => {
                return Err(refusal(&message).into_error().context("the bus"));
            }
            Kind::Signal => ended.extend(job_removed(&message)),
            _ => {}
        }
        Ok(None)
    }

    /// Waits for the answer to a call.
    fn answer(&mut self, serial: u32) -> Result<Result<Message, Refusal>> {
        loop {
            if let Some(message) = self.message()?
                && let Some(answer) = self.answer_in(message, serial, &mut Vec::new())?
            {
                return Ok(answer);
            }
        }
    }

    /// The invocation of the unit that has this name now, if it bears `mark`.
    fn invocation_of(&mut self, unit: &str, mark: &Property) -> Result<Option<String>> {
        let (name, own) = mark;
        match self.property(unit, name)? {
            Ok(told) if told == *own => {}
            Ok(_) | Err(_) => return Ok(None),
        }
        match self.property(unit, "InvocationID")? {
            Ok(told) => Ok(Some(hexadecimal(&told)).filter(|text| is_invocation(text))),
            Err(_) => Ok(None),
        }
    }

    /// A property of the unit that has this name now.
    fn property(&mut self, unit: &str, name: &str) -> Result<Result<Value, Refusal>> {
        let path = format!("{MANAGER_PATH}/unit/{}", label(unit));
        let arguments = vec![Value::text(UNIT), Value::text(name)];
        let serial = self.call(&path, "org.freedesktop.DBus.Properties", "Get", arguments);
        self.flush()?;
        match self.answer(serial)? {
            Ok(answer) => match answer.body()?.as_slice() {
                [Value::Variant(value)] => Ok(Ok((**value).clone())),
                _ => bail!("systemd does not tell {name:?}"),
            },
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Waits until the job that `serial` has asked for has ended. Returns its result. `is_done`
    /// tells by other means: an answer is lost where systemd starts itself over.
    fn job(&mut self, serial: u32, is_done: impl Fn() -> bool) -> Result<Result<String, Refusal>> {
        let (mut ended, mut asked) = (Vec::new(), None);
        loop {
            // A bus stamps who sent it: nobody else can say that the job is done.
            let is_it =
                |one: &&Ended| asked.as_ref() == Some(&(one.job.clone(), one.sender.clone()));
            if let Some(done) = ended.iter().find(is_it) {
                return Ok(Ok(done.result.clone()));
            }
            let Some(message) = self.message()? else {
                if is_done() {
                    return Ok(Ok(DONE.to_owned()));
                }
                continue;
            };
            match self.answer_in(message, serial, &mut ended)? {
                Some(Ok(answer)) => {
                    let [Value::Path(job)] = &answer.body()?[..] else {
                        bail!("systemd names no job")
                    };
                    asked = Some((job.clone(), answer.sender.clone()));
                }
                Some(Err(refusal)) => return Ok(Err(refusal)),
                None => {}
            }
        }
    }
}

fn refusal(message: &Message) -> Refusal {
    let text = match message.body().unwrap_or_default().first() {
        Some(Value::Text(text)) => text.clone(),
        _ => String::new(),
    };
    Refusal { name: message.error.clone().unwrap_or_default(), text }
}

fn job_removed(message: &Message) -> Option<Ended> {
    if message.kind != Kind::Signal || message.member.as_deref() != Some("JobRemoved") {
        return None;
    }
    match message.body().ok()?.as_slice() {
        [_, Value::Path(job), _, Value::Text(result)] => {
            Some(Ended { job: job.clone(), result: result.clone(), sender: message.sender.clone() })
        }
        _ => None,
    }
}

fn array(properties: &[Property]) -> Value {
    let property = |(name, value): &Property| {
        Value::Struct(vec![Value::text(name.as_str()), Value::variant(value.clone())])
    };
    Value::Array("(sv)".into(), properties.iter().map(property).collect())
}

/// A unit that systemd was asked to start.
#[derive(Debug)]
pub struct Starting {
    talk: Talk,
    serial: u32,
    plan: UnitPlan,
    pid: u32,
}

/// Asks for the unit around the process `pid`, and waits for nothing. By `mark` the unit is
/// known as the container's before its invocation is.
pub fn ask_for(plan: &UnitPlan, mark: Property, pid: u32) -> Result<Starting> {
    let talk = Talk::with(&plan.unit).with_context(|| describe(&plan.unit))?;
    let mut plan = plan.clone();
    plan.properties.push(mark);
    let mut starting = Starting { talk, serial: 0, plan, pid };
    starting.ask().with_context(|| describe(&starting.plan.unit))?;
    Ok(starting)
}

fn describe(unit: &Unit) -> String {
    format!("start the unit {:?} of systemd", unit.name)
}

impl Starting {
    fn ask(&mut self) -> Result<()> {
        let pids = Value::Array("u".into(), vec![Value::U32(self.pid)]);
        let mut properties = vec![("PIDs".to_owned(), pids)];
        properties.extend(self.plan.properties.iter().cloned());
        let arguments = vec![
            Value::text(self.plan.unit.name.as_str()),
            Value::text("fail"),
            array(&properties),
            Value::Array("(sa(sv))".into(), Vec::new()),
        ];
        self.serial = self.talk.call(MANAGER_PATH, MANAGER, "StartTransientUnit", arguments);
        log::debug(|| {
            let names: Vec<_> = properties.iter().map(|(name, _)| name.as_str()).collect();
            format!("{}: asked for, with {}", self.plan.unit.name, names.join(" "))
        });
        self.talk.flush()
    }

    /// Waits until the process is in its unit. Returns the unit, as it is known from now on,
    /// and its group. `planned` is where that should be.
    pub fn wait(mut self, planned: &Directory) -> Result<(Unit, Directory)> {
        let unit = self.plan.unit.clone();
        self.settle(planned).with_context(|| describe(&unit))?;
        let place = place(self.pid, planned).with_context(|| describe(&unit))?;
        if !is_of(&place, planned) {
            bail!("{}: the process is in {:?} all the same", describe(&unit), place.path);
        }
        let invocation = self.invocation().with_context(|| describe(&unit))?;
        log::debug(|| format!("{}: started, invocation {invocation}: {place:?}", unit.name));
        Ok((Unit { invocation: Some(invocation), ..unit }, place))
    }

    /// What systemd calls this life of the unit. The machine's leaves it where the journal finds
    /// it, and need not be asked.
    fn invocation(&mut self) -> Result<String> {
        let unit = &self.plan.unit;
        let noted = fs::read_link(format!("/run/systemd/units/invocation:{}", unit.name));
        if let (Manager::System, Ok(noted)) = (unit.manager, noted)
            && let Some(text) = noted.to_str().filter(|text| is_invocation(text))
        {
            return Ok(text.to_owned());
        }
        let told = self.talk.property(&unit.name, "InvocationID")?.map_err(Refusal::into_error)?;
        let text = hexadecimal(&told);
        if !is_invocation(&text) {
            bail!("systemd does not tell the invocation of the unit");
        }
        Ok(text)
    }

    fn settle(&mut self, planned: &Directory) -> Result<()> {
        let (unit, pid) = (self.plan.unit.clone(), self.pid);
        let is_inside = || place(pid, planned).is_ok_and(|place| is_of(&place, planned));
        let (mut has_reset, mut has_returned) = (false, false);
        loop {
            match self.talk.job(self.serial, is_inside) {
                Ok(Ok(result)) if result == DONE => return Ok(()),
                Ok(Ok(result)) => {
                    self.reset_failed()?;
                    bail!("the job of systemd ended as {result:?}");
                }
                // It was started before systemd started itself over.
                Ok(Err(refusal)) if refusal.is(&["UnitExists"]) && has_returned && is_inside() => {
                    return Ok(());
                }
                // A failed one of the name is of no use to anybody; a living one is another's.
                Ok(Err(refusal)) if refusal.is(&["UnitExists"]) && !has_reset => {
                    has_reset = true;
                    self.reset_failed()?;
                    self.ask()?;
                }
                Ok(Err(refusal)) => match self.unknown(&refusal) {
                    Some(index) => {
                        let (name, _) = self.plan.properties.remove(index);
                        log::debug(|| {
                            format!("{name}: not known to this systemd: left to the file")
                        });
                        self.ask()?;
                    }
                    None if refusal.is(&UNANSWERED) && !has_returned => {
                        has_returned = true;
                        self.return_to(&unit)?;
                    }
                    None => return Err(refusal.into_error()),
                },
                Err(error) if was_closed(&error) && !has_returned => {
                    has_returned = true;
                    self.return_to(&unit)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks once more, by a new connection.
    fn return_to(&mut self, unit: &Unit) -> Result<()> {
        log::debug(|| format!("{}: systemd starts itself over: asked once more", unit.name));
        self.talk = Talk::with(unit)?;
        self.ask()
    }

    /// Which property this systemd is too old for.
    fn unknown(&self, refusal: &Refusal) -> Option<usize> {
        if !refusal.is(&["PropertyReadOnly"]) {
            return None;
        }
        let name = refusal.text.strip_prefix("Cannot set property ")?.split(',').next()?;
        self.plan.properties.iter().position(|(known, _)| known == name)
    }

    fn reset_failed(&mut self) -> Result<()> {
        let name = Value::text(self.plan.unit.name.as_str());
        let serial = self.talk.call(MANAGER_PATH, MANAGER, "ResetFailedUnit", vec![name]);
        self.talk.flush()?;
        // It may not have failed.
        let _ = self.talk.answer(serial)?;
        Ok(())
    }
}

/// Whether a group has the name of the one that was planned.
fn is_of(place: &Directory, planned: &Directory) -> bool {
    place.path.file_name() == planned.path.file_name()
}

/// The group of version 2 that a process is in.
fn place(pid: u32, planned: &Directory) -> Result<Directory> {
    let file = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let groups = read_bytes(&file).with_context(|| format!("{file:?}"))?;
    let member = memberships(&groups).find(|member| member.controllers.is_empty());
    let path = member.context("the process is in no group of version 2")?.below(&planned.mount);
    let directory = Directory { path, version: Version::V2, ..planned.clone() };
    checked(&directory)?;
    Ok(directory)
}

/// An array of bytes in digits.
fn hexadecimal(value: &Value) -> String {
    let Value::Array(_, bytes) = value else { return String::new() };
    let digits = |byte: &Value| match byte {
        Value::Byte(byte) => format!("{byte:02x}"),
        _ => String::new(),
    };
    bytes.iter().map(digits).collect()
}

fn is_invocation(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The object of a unit by its invocation.
fn object(invocation: &str) -> String {
    format!("{MANAGER_PATH}/unit/{}", label(invocation))
}

/// A name as a part of an object's path: what is not plain, and a digit at the beginning, by its
/// number.
fn label(name: &str) -> String {
    name.bytes()
        .enumerate()
        .map(|(at, byte)| match byte {
            b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
            b'0'..=b'9' if at > 0 => char::from(byte).to_string(),
            other => format!("_{other:02x}"),
        })
        .collect()
}

/// Gives the unit other properties, until the machine is booted again.
pub fn change(unit: &Unit, properties: &[Property]) -> Result<()> {
    let Some(invocation) = unit.invocation.as_deref().filter(|_| !properties.is_empty()) else {
        return Ok(());
    };
    let change = || -> Result<()> {
        let mut talk = Talk::with(unit)?;
        let mut properties = properties.to_vec();
        loop {
            let arguments = vec![Value::Bool(true), array(&properties)];
            let serial = talk.call(&object(invocation), UNIT, "SetProperties", arguments);
            talk.flush()?;
            match talk.answer(serial)? {
                Ok(_) => return Ok(()),
                Err(refusal) => {
                    let unknown = refusal.is(&["PropertyReadOnly"]).then(|| {
                        properties.iter().position(|(name, _)| refusal.text.contains(name.as_str()))
                    });
                    match unknown.flatten() {
                        Some(index) => drop(properties.remove(index)),
                        None => return Err(refusal.into_error()),
                    }
                }
            }
        }
    };
    twice(change).with_context(|| format!("change the unit {:?} of systemd", unit.name))
}

/// Puts the process `pid` into the unit, for a user who may not do it by the file.
pub fn attach(unit: &Unit, pid: u32) -> Result<()> {
    let attach = || -> Result<()> {
        let mut talk = Talk::with(unit)?;
        let pids = Value::Array("u".into(), vec![Value::U32(pid)]);
        let arguments = vec![Value::text(unit.name.as_str()), Value::text("/"), pids];
        let serial = talk.call(MANAGER_PATH, MANAGER, "AttachProcessesToUnit", arguments);
        talk.flush()?;
        talk.answer(serial)?.map(drop).map_err(Refusal::into_error)
    };
    twice(attach).with_context(|| format!("put process {pid} into the unit {:?}", unit.name))
}

/// Ends the unit, which bears `mark` if it is the container's. Nothing lives in it any more:
/// systemd would wait for what does. `is_gone` tells whether its group is.
pub fn stop(unit: &Unit, mark: &Property, is_gone: impl Fn() -> bool) -> Result<()> {
    let stop = || -> Result<()> {
        let mut talk = Talk::with(unit)?;
        let found = match &unit.invocation {
            Some(invocation) => Some(invocation.clone()),
            None => talk.invocation_of(&unit.name, mark)?,
        };
        let Some(invocation) = &found else { return Ok(()) };
        let mode = vec![Value::text("replace")];
        let serial = talk.call(&object(invocation), UNIT, "Stop", mode);
        talk.flush()?;
        match talk.job(serial, &is_gone)? {
            Ok(_) => Ok(()),
            // It went with its last process.
            Err(refusal)
                if refusal.is(&["NoUnitForInvocationID", "NoSuchUnit", "UnknownObject"]) =>
            {
                Ok(())
            }
            Err(refusal) => Err(refusal.into_error()),
        }
    };
    twice(stop).with_context(|| format!("stop the unit {:?} of systemd", unit.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_users_systemd_is_found_from_where_the_user_is() {
        let service = "/user.slice/user-7.slice/user@7.service";
        for own in [
            "/user.slice/user-7.slice/session-1.scope",
            "/user.slice/user-7.slice/user@7.service/app.slice/x.scope",
            "/user.slice/user-7.slice/user@7.service",
        ] {
            assert_eq!(of_user(own), Path::new(service), "{own}");
        }
        let nested = "/system.slice/box.scope/user.slice/user-7.slice/session-2.scope";
        let expected = "/system.slice/box.scope/user.slice/user-7.slice/user@7.service";
        assert_eq!(of_user(nested), Path::new(expected));
    }

    #[test]
    fn an_invocation_is_the_name_of_an_object() {
        assert_eq!(object("ab01"), "/org/freedesktop/systemd1/unit/ab01");
        assert_eq!(object("3b01"), "/org/freedesktop/systemd1/unit/_33b01");
        assert_eq!(label("docker-c1.scope"), "docker_2dc1_2escope");
    }

    #[test]
    fn drivers_are_known_by_their_majors() {
        let text = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n259 blkext\n";
        let expected = [
            (DeviceKind::Char, 1, "mem".to_owned()),
            (DeviceKind::Char, 136, "pts".to_owned()),
            (DeviceKind::Block, 8, "sd".to_owned()),
            (DeviceKind::Block, 259, "blkext".to_owned()),
        ];
        assert_eq!(parse_majors(text), expected);
    }

    #[test]
    fn users_are_looked_for_where_their_environment_says() {
        let buses = |session: Option<&str>, directory: Option<&str>| Buses {
            system: None,
            session: session.map(str::to_owned),
            runtime_directory: directory.map(PathBuf::from),
        };
        let own = Place::Own("/run/user/7/systemd/private".into());
        let places = places_of_user(&buses(Some("unix:abstract=x"), Some("/run/user/7"))).unwrap();
        assert_eq!(places, [Place::Bus("unix:abstract=x".into()), own.clone()]);
        let places = places_of_user(&buses(None, Some("/run/user/7"))).unwrap();
        assert_eq!(places, [Place::Bus("unix:path=/run/user/7/bus".into()), own]);
        assert!(places_of_user(&buses(None, None)).is_err());
        assert_eq!(escape("/a b,c"), "/a%20b%2cc");
    }
}
