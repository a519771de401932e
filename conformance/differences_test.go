package main

import "regexp"

// A Difference is a rule by which ferrun takes what the schema does not, or the other way
// round, and why. Each one is needed: TestParserAndSchemaAgree sees to that.
type Difference struct {
	Outcome string
	Place   *regexp.Regexp // as in `mounts.0.options.1`
	Kind    *regexp.Regexp // of the change; any where there is none
	Says    *regexp.Regexp // what the error has to say, where there is one
	Names   string         // what it names instead of the field, where it does
	Because string
}

func whole(pattern string) *regexp.Regexp { return regexp.MustCompile("^(" + pattern + ")$") }

func accepted(place, kind, because string) Difference {
	return Difference{Outcome: wrongAccepted, Place: whole(place), Kind: whole(kind), Because: because}
}

func refused(place, says, because string) Difference {
	return Difference{Outcome: rightRefused, Place: whole(place), Says: regexp.MustCompile(says), Because: because}
}

// elsewhere is an error that is about another field than the one that was changed.
func elsewhere(place, names, because string) Difference {
	return Difference{Outcome: rightRefused, Place: whole(place), Names: names, Because: because}
}

var differences = []Difference{
	accepted(`.+`, `null`,
		"Go reads null as nothing, and engines that are written in Go write it for nothing."),
	accepted(`linux\.resources\.pids(\.limit)?`, `absent|an empty object`,
		"Engines send an empty object. Without a limit there is none."),
	accepted(`linux\.(rootfsPropagation|intelRdt\.memBwSchema)`, `an empty text`,
		"Engines write an empty text for nothing."),
	accepted(`linux\.devices\.0\.fileMode`, `the number 512`,
		"A mode has more bits than those of permission, and engines send the type of the file along."),

	refused(`.+`, `floating point "100\.0"`,
		"1e2: Go reads no such number as an integer either, and nobody writes one so."),
	refused(`ociVersion`, `not a semantic version|this runtime implements`,
		"config.md: a version by SemVer, and one that is implemented."),
	refused(`root(\.path)?`, `root\.path: missing`, "config.md: required but for Hyper-V."),
	refused(`hooks\.\w+\.0\.path|process\.cwd|linux\.(masked|readonly)Paths(\.0)?`, `not absolute`,
		"config.md: an absolute path."),
	refused(`mounts\.\d\.destination`, `empty`, "config.md: required."),
	refused(`mounts\.\d\.type`, `missing`, "What is no bind mount has a type."),
	refused(`mounts\.\d\.source`, `missing on a bind mount`, "A bind mount has a source."),
	refused(`mounts\.\d\.options(\.\d)?`, `unknown on a bind mount|on a bind mount$`,
		"An option that the kernel would not look at."),
	refused(`process(\.user(\.[ug]id)?)?`, `process\.user\.[ug]id: missing|missing field`,
		"config.md: required, and nobody is root by default."),
	refused(`process\.user\.(uid|gid|additionalGids(\.0)?)|linux\.devices\.0\.[ug]id`, `stands for no id`,
		"chown(2) and setresuid(2) take the last number for none."),
	refused(`process\.args`, `must not be empty`, "config.md: one entry at least."),
	refused(`process\.env(\.0)?`, `missing '='`, "config.md: as environ(7) has them."),
	refused(`process\.execCPUAffinity\.(initial|final)`, `format`, "config.md: a list of processors."),
	refused(`process\.(ioPriority\.priority|scheduler\.\w+)`, `not between|below zero|deadline`,
		"sched_setattr(2) and ioprio_set(2) take the nearest."),
	refused(`process\.user\.umask`, `more than the permission bits`, "umask(2) drops the rest."),
	refused(`process\.rlimits(\.0\.\w+)?`, `above the hard limit|unknown variant|given twice`,
		"getrlimit(2); each limit stands there once."),
	refused(`linux\.namespaces(\.\d(\.\w+)?)?`, `given without a user namespace|given without a new time namespace|is given twice|not absolute`,
		"config-linux.md: each kind once, by an absolute path."),
	elsewhere(`(linux|mounts\.0)\.[ug]idMappings\.0\.size`, `Mappings[0].hostID`,
		"Which of the two is wrong nobody can tell."),
	refused(`(linux|mounts\.0)\.[ug]idMappings(\.0(\.\w+)?)?`, `missing|overlaps|past the last id|size: 0|given without`,
		"user_namespaces(7): ids that exist, each of them once, of users and of groups."),
	refused(`linux\.cgroupsPath`, `leads out of its parent|the root of the tree`,
		"The root of the tree is nobody's."),
	refused(`linux\.devices(\.0\.\w+)?`, `not a device number|unknown variant|missing|given twice`,
		"mknod(2): of larger numbers the kernel drops bits."),
	refused(`linux\.netDevices\.e\.name`, `holds what no name of an interface may|longer than`, "As the kernel has it."),
	refused(`linux\.intelRdt\.closID`, `not the name of a class`, "It becomes a directory."),
	refused(`linux\.memoryPolicy(\.mode)?|linux\.personality(\.domain)?`, `missing field`, "config-linux.md: required."),
	refused(`linux\.personality\.flags`, `unknown`, "config-linux.md: none is defined."),
	refused(`linux\.memoryPolicy\.\w+`, `invalid memory policy`, "set_mempolicy(2)."),
	refused(`linux\.resources\..+`, `not between|neither|not a device number|below memory\.limit`,
		"What the kernel refuses or takes for something else: tests/numbers.rs."),
	refused(`linux\.resources\.devices\.0\.(type|access)`, `unknown variant|is none of|holds none of`, "config-linux.md."),
	refused(`linux\.seccomp\.(defaultErrnoRet|syscalls\.0\.errnoRet)`, `more than 4095|takes none`,
		"A filter would return the nearest."),
	elsewhere(`linux\.seccomp\.(defaultAction|syscalls\.0\.action)`, `rrnoRet: 1: `,
		"config-linux.md: an errno belongs to an action that has one."),
	elsewhere(`linux\.seccomp\.listenerPath`, `linux.seccomp.listenerMetadata: needs listenerPath`,
		"config-linux.md: what is said belongs to somebody who listens."),
	refused(`linux\.seccomp\..+`, `contradicts|needs an action|a call has 6 arguments|more than`, "config-linux.md."),
	refused(`linux\.timeOffsets.*`, `a second or more|struct LinuxTimeOffset`, "time_namespaces(7) has two clocks."),
	elsewhere(`linux(\.namespaces(\.\d)?)?`, `namespace`,
		"What needs a namespace says so: who has taken it out may have meant that."),

	// Neither takes null, and ferrun takes it for nothing: then it is as above.
	{Outcome: agreed, Place: whole(`linux(\.namespaces|\.seccomp\.listenerPath)?`), Kind: whole(`null`), Names: `need`,
		Because: "What is not there is missed by what needs it."},
}
