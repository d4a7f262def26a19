// SPDX-License-Identifier: Apache-2.0
//
// Objects of the instance itself, of confidential memory and of observation.
#include "cloister/api/schema_objects.h"

namespace cloister::api {
namespace {

constexpr Field kInstanceFields[] = {
    {.name = "app_name", .doc = "\"Cloister\".", .required = true},
    {.name = "id", .doc = "The name given with --id.", .required = true},
    {.name = "state",
     .doc = "What the VM does.",
     .required = true,
     .choices = "Not started|Running|Paused"},
    {.name = "vmm_version", .doc = "The monitor's version.", .required = true}};

constexpr Field kVersionFields[] = {
    {.name = "firecracker_version",
     .doc = "The monitor's version, under the name that clients look for.",
     .required = true},
    {.name = "cloister_version", .doc = "The same.", .required = true}};

constexpr Field kActionFields[] = {
    {.name = "action_type",
     .doc = "What to do. SendPowerButton asks the guest to shut down; "
            "InstanceStop ends the VM at once.",
     .required = true,
     .choices = "InstanceStart|FlushMetrics|SendCtrlAltDel|SendPowerButton|"
                "InstanceStop"}};

constexpr Field kVmStateFields[] = {{.name = "state",
                                     .doc = "What the VM is to do.",
                                     .required = true,
                                     .choices = "Paused|Resumed"}};

constexpr Field kLoggerFields[] = {
    {.name = "log_path",
     .doc = "File or named pipe for log lines; without it they go to standard "
            "error.",
     .minimum = 1,
     .maximum = kMaxPathLength},
    {.name = "level",
     .doc = "The least that is logged; Trace is Debug.",
     .choices = "Error|Warning|Info|Debug|Trace|Off",
     .any_case = true,
     .fallback = "\"Info\""},
    {.name = "show_level",
     .type = Type::kBoolean,
     .doc = "Lines name their level.",
     .fallback = "false"},
    {.name = "show_log_origin",
     .type = Type::kBoolean,
     .doc = "Lines of source code are not logged.",
     .absent = true},
    {.name = "module", .doc = "Logs have no modules.", .absent = true},
    {.name = "format",
     .doc = "json: one object with time, level, id and message per line.",
     .choices = "text|json",
     .fallback = "\"text\""}};

constexpr Field kMetricsTargetFields[] = {
    {.name = "metrics_path",
     .doc = "File or named pipe that gets a line of JSON per flush.",
     .required = true,
     .minimum = 1,
     .maximum = kMaxPathLength},
    {.name = "emit_id",
     .type = Type::kBoolean,
     .doc = "Lines have the field \"id\".",
     .fallback = "false"},
    {.name = "properties",
     .type = Type::kTextMap,
     .doc = "Lines have the field \"properties\" with these texts.",
     .maximum = 64}};

constexpr Field kWindowFields[] = {{.name = "gpa",
                                    .type = Type::kAddress,
                                    .doc = "Where it starts, page-aligned.",
                                    .required = true},
                                   {.name = "len",
                                    .type = Type::kSize,
                                    .doc = "Its size, a multiple of 4 KiB.",
                                    .required = true}};
constexpr Object kWindow = {"Window", "A range of guest-physical addresses.",
                            kWindowFields};

constexpr Field kConfidentialFields[] = {
    {.name = "backend",
     .doc = "What holds private pages; auto takes the strongest there is.",
     .choices = "auto|off|emulated|sw-protected",
     .fallback = "\"auto\""},
    {.name = "expected_digest",
     .doc = "The launch digest, 64 hexadecimal digits: InstanceStart refuses "
            "any other.",
     .minimum = 64,
     .maximum = 64},
    {.name = "conversion_reports",
     .doc = "How the guest tells of a conversion; part of the digest.",
     .choices = "hypercall|fault",
     .fallback = "\"hypercall\""},
    {.name = "exchange_windows",
     .type = Type::kObjects,
     .doc = "Memory beside RAM, outside of the guest's e820 table, that the "
            "host may convert at any time; part of the digest.",
     .maximum = 16,
     .object = &kWindow},
    {.name = "policy",
     .type = Type::kObject,
     .doc =
         "What conversions may do, as PATCH /memory/policy takes it; what it "
         "leaves out stays.",
     .object = &kPolicyObject}};

constexpr Field kMeasurementFields[] = {
    {.name = "digest", .doc = "SHA-256, in hexadecimal.", .required = true},
    {.name = "format",
     .type = Type::kInteger,
     .doc = "Version of what is hashed.",
     .required = true},
    {.name = "inputs",
     .type = Type::kObjects,
     .doc = "What was hashed, in order.",
     .required = true}};

constexpr Field kAttributeRangeFields[] = {
    {.name = "gpa",
     .type = Type::kHex,
     .doc = "Where it starts.",
     .required = true},
    {.name = "len", .type = Type::kHex, .doc = "Its bytes.", .required = true},
    {.name = "state",
     .doc = "The state of every page of it.",
     .required = true,
     .choices = "private|shared|aliased|not-ram"}};
constexpr Object kAttributeRange = {"AttributeRange",
                                    "Neighbouring pages in one state.",
                                    kAttributeRangeFields};

constexpr Field kAttributesFields[] = {
    {.name = "ranges",
     .type = Type::kObjects,
     .doc = "In ascending order, without gaps; at most 1024.",
     .required = true,
     .object = &kAttributeRange},
    {.name = "next",
     .type = Type::kHex,
     .doc = "Ask again from this address: there is more."},
    {.name = "generation",
     .type = Type::kInteger,
     .doc = "Grows with every conversion.",
     .required = true}};

constexpr Field kConvertRangeFields[] = {
    {.name = "gpa",
     .type = Type::kAddress,
     .doc = "Where it starts, page-aligned.",
     .required = true},
    {.name = "len",
     .type = Type::kSize,
     .doc = "Its size, a multiple of 4 KiB.",
     .required = true},
    {.name = "to",
     .doc = "The state to bring it to; the same in all ranges.",
     .required = true,
     .choices = "private|shared"}};
constexpr Object kConvertRange = {"ConvertRange", "Pages to convert.",
                                  kConvertRangeFields};

constexpr Field kConvertFields[] = {
    {.name = "ranges",
     .type = Type::kObjects,
     .doc = "All of them are converted, or none.",
     .required = true,
     .minimum = 1,
     .maximum = 256,
     .object = &kConvertRange},
    {.name = "reason",
     .doc = "Why the host may: the pages lie in an exchange window, or the "
            "guest has put them into its balloon.",
     .choices = "exchange-window|given-up",
     .fallback = "\"exchange-window\""}};

constexpr Field kConvertedRangeFields[] = {
    {.name = "gpa",
     .type = Type::kHex,
     .doc = "Where it starts.",
     .required = true},
    {.name = "len", .type = Type::kHex, .doc = "Its bytes.", .required = true}};
constexpr Object kConvertedRange = {"ConvertedRange",
                                    "Pages that have the state asked for.",
                                    kConvertedRangeFields};

constexpr Field kBytesFields[] = {
    {.name = "ranges",
     .type = Type::kObjects,
     .doc = "As they were asked for.",
     .required = true,
     .object = &kConvertedRange},
    {.name = "to",
     .doc = "Their state.",
     .required = true,
     .choices = "private|shared"},
    {.name = "bytes",
     .type = Type::kInteger,
     .doc = "How many changed their state, in all.",
     .required = true}};

constexpr Field kConversionsFields[] = {
    {.name = "to_shared",
     .type = Type::kObject,
     .doc = "By who asked (explicit, implicit, host): requests and bytes.",
     .required = true},
    {.name = "to_private",
     .type = Type::kObject,
     .doc = "The same.",
     .required = true},
    {.name = "counters",
     .type = Type::kObject,
     .doc = "What became of requests.",
     .required = true},
    {.name = "bytes",
     .type = Type::kObject,
     .doc = "Sizes now: private, shared, aliased, double_backed, "
            "pending_private, leftover.",
     .required = true},
    {.name = "latency_ns",
     .type = Type::kObjects,
     .doc = "Guest requests by duration: \"from\" (a power of two), "
            "\"count\".",
     .required = true}};

constexpr Field kPolicyFields[] = {
    {.name = "implicit",
     .doc = "What becomes of a conversion that no hypercall reported, once "
            "init runs.",
     .choices = "allow|count|deny"},
    {.name = "shared_limit",
     .type = Type::kSize,
     .doc = "Bytes that the guest may share at any time."},
    {.name = "per_second",
     .type = Type::kInteger,
     .doc = "Conversions per second beyond which the guest is delayed; 0: no "
            "limit.",
     .maximum = 1000000000},
    {.name = "burst",
     .type = Type::kInteger,
     .doc = "Conversions that may come at once before that.",
     .minimum = 1,
     .maximum = 1000000},
    {.name = "exchange_windows",
     .type = Type::kObjects,
     .doc = "Where the host may convert at any time; as in PUT /confidential, "
            "and only before the start.",
     .maximum = 16,
     .object = &kWindow}};

constexpr Field kMapFields[] = {
    {.name = "segments",
     .type = Type::kObjects,
     .doc = "RAM, device windows and holes in ascending order: kind, name, gpa "
            "and len (\"0x...\"). RAM has cell_len (\"0x...\") and cells, each "
            "with its bytes in each of cell_states.",
     .required = true},
    {.name = "bytes",
     .type = Type::kObject,
     .doc = "Totals by kind.",
     .required = true}};

constexpr Field kMetricsFields[] = {
    {.name = "uptime_us",
     .type = Type::kInteger,
     .doc = "Since the monitor started.",
     .required = true},
    {.name = "vcpus",
     .type = Type::kObjects,
     .doc = "Exits of each vCPU, by kind.",
     .required = true},
    {.name = "devices",
     .type = Type::kObject,
     .doc = "Counters of each device.",
     .required = true},
    {.name = "leased_bytes",
     .type = Type::kInteger,
     .doc = "Shared memory that devices use at this moment, by the sizes of "
            "their leases; absent before the start."},
    {.name = "memory",
     .type = Type::kObject,
     .doc = "As GET /memory/conversions; absent before the start and without "
            "private memory."},
    {.name = "api",
     .type = Type::kObject,
     .doc = "Requests and connections.",
     .required = true},
    {.name = "boot_us",
     .type = Type::kObject,
     .doc = "When each phase of the start was reached.",
     .required = true}};

constexpr Field kFaultFields[] = {{.name = "fault_message",
                                   .doc = "What is wrong, in one line.",
                                   .required = true}};

}  // namespace

const Object kInstanceObject = {"InstanceInfo", "The VM.", kInstanceFields};
const Object kVersionObject = {"Version", "The monitor.", kVersionFields};
const Object kActionObject = {"InstanceActionInfo", "An action.",
                              kActionFields};
const Object kVmStateObject = {"Vm", "Pause and resume.", kVmStateFields};
const Object kLoggerObject = {"Logger", "Where log lines go.", kLoggerFields};
const Object kMetricsTargetObject = {"Metrics", "Where metrics go.",
                                     kMetricsTargetFields};
const Object kConfidentialObject = {"Confidential", "Private memory.",
                                    kConfidentialFields};
const Object kMeasurementObject = {
    "Measurement", "The launch digest, as `cloister measure` prints it.",
    kMeasurementFields};
const Object kAttributesObject = {"MemoryAttributes", "States of pages.",
                                  kAttributesFields};
const Object kConvertObject = {"Convert", "A request of the host.",
                               kConvertFields};
const Object kBytesObject = {"Converted", "What a conversion did.",
                             kBytesFields};
const Object kConversionsObject = {
    "Conversions", "Counts since the VM was made, and sizes now.",
    kConversionsFields};
const Object kPolicyObject = {
    "ConversionPolicy", "What the guest's conversions may do.", kPolicyFields};
const Object kMapObject = {"MemoryMap", "The guest's address space.",
                           kMapFields};
const Object kMetricsObject = {"MetricsTotals", "Counts since the start.",
                               kMetricsFields};
const Object kFaultObject = {"Error", "Why a request was refused.",
                             kFaultFields};
// Open objects: their fields are not listed here.
const Object kVmConfigObject = {
    "FullVmConfiguration",
    "Every part of the configuration under the name of its path; --config-file "
    "takes the same.",
    {}};
const Object kCapabilitiesObject = {
    "Capabilities", "As `cloister doctor --json` prints it.", {}};
const Object kOpenApiObject = {"OpenApi", "An OpenAPI 3.1 document.", {}};

}  // namespace cloister::api
