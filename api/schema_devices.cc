// SPDX-License-Identifier: Apache-2.0
//
// Objects that configure a VM. Names, types and ranges of those that
// Firecracker has too follow its API (swagger of release 1.17, Apache-2.0), so
// that its clients work; the words are ours.
#include "cloister/api/schema_objects.h"

namespace cloister::api {
namespace {

constexpr uint64_t kMaxIdLength = 64;
constexpr uint64_t kMaxMemoryMib = uint64_t{1} << 24;  // 16 TiB

constexpr Field kTokenBucketFields[] = {
    {.name = "size",
     .type = Type::kInteger,
     .doc = "Tokens that the bucket holds: bytes or operations. 0: no limit.",
     .required = true},
    {.name = "refill_time",
     .type = Type::kInteger,
     .doc =
         "Milliseconds in which an empty bucket fills, a year at most. 0: no "
         "limit.",
     .required = true,
     .maximum = uint64_t{365} * 24 * 3600 * 1000},
    {.name = "one_time_burst",
     .type = Type::kInteger,
     .doc = "Tokens beside the bucket that are there once, at the start."}};
constexpr Object kTokenBucket = {"TokenBucket", "A limit of a rate.",
                                 kTokenBucketFields};

constexpr Field kRateLimiterFields[] = {{.name = "bandwidth",
                                         .type = Type::kObject,
                                         .doc = "Limits bytes.",
                                         .object = &kTokenBucket},
                                        {.name = "ops",
                                         .type = Type::kObject,
                                         .doc = "Limits operations.",
                                         .object = &kTokenBucket}};
constexpr Object kRateLimiter = {
    "RateLimiter", "Limits of a device's traffic, independent of each other.",
    kRateLimiterFields};

// Cloister's own. Without a default, so that Firecracker's clients find what
// they know.
constexpr char kConsoleDoc[] =
    "What standard input and output are in the guest: its serial port, a "
    "virtio console (hvc0) with the serial port's output beside it, or "
    "nothing. serial if it is left out.";
constexpr char kConsoleChoices[] = "serial|virtio|none";
constexpr char kConsoleLimitDoc[] =
    "Limits of what the guest writes to its virtio console.";
constexpr char kTransportDoc[] =
    "How virtio devices are attached: mmio is announced by ACPI, mmio-fdt by a "
    "device tree in place of ACPI tables. If it is left out pci, and mmio with "
    "the argument pci=off.";
constexpr char kTransportChoices[] = "pci|mmio|mmio-fdt";

constexpr Field kMachineConfigFields[] = {
    {.name = "vcpu_count",
     .type = Type::kInteger,
     .doc = "Number of vCPUs.",
     .required = true,
     .minimum = 1,
     .maximum = 4096,
     .fallback = "1"},
    {.name = "mem_size_mib",
     .type = Type::kInteger,
     .doc = "Guest RAM in MiB.",
     .required = true,
     .minimum = 16,
     .maximum = kMaxMemoryMib,
     .fallback = "128"},
    {.name = "smt",
     .type = Type::kBoolean,
     .doc = "Show the guest two threads per core; vcpu_count is then even.",
     .fallback = "false"},
    {.name = "track_dirty_pages",
     .type = Type::kBoolean,
     .doc = "Only for snapshots, which there are none of.",
     .absent = true,
     .fallback = "false"},
    {.name = "cpu_template",
     .doc = "There are no CPU templates.",
     .choices = "None",
     .absent = true,
     .fallback = "\"None\""},
    {.name = "huge_pages",
     .doc = "What backs the memory of a guest that is not confidential.",
     .choices = "None|Transparent|2M|1G",
     .fallback = "\"None\""},
    {.name = "console", .doc = kConsoleDoc, .choices = kConsoleChoices},
    {.name = "console_rate_limiter",
     .type = Type::kObject,
     .doc = kConsoleLimitDoc,
     .object = &kRateLimiter},
    {.name = "virtio_transport",
     .doc = kTransportDoc,
     .choices = kTransportChoices}};

constexpr Field kMachineConfigUpdateFields[] = {
    {.name = "vcpu_count",
     .type = Type::kInteger,
     .doc = "Number of vCPUs.",
     .minimum = 1,
     .maximum = 4096},
    {.name = "mem_size_mib",
     .type = Type::kInteger,
     .doc = "Guest RAM in MiB.",
     .minimum = 16,
     .maximum = kMaxMemoryMib},
    {.name = "smt",
     .type = Type::kBoolean,
     .doc = "Show the guest two threads per core."},
    {.name = "track_dirty_pages",
     .type = Type::kBoolean,
     .doc = "Only for snapshots, which there are none of.",
     .absent = true},
    {.name = "cpu_template",
     .doc = "There are no CPU templates.",
     .choices = "None",
     .absent = true},
    {.name = "huge_pages",
     .doc = "What backs the memory of a guest that is not confidential.",
     .choices = "None|Transparent|2M|1G"},
    {.name = "console", .doc = kConsoleDoc, .choices = kConsoleChoices},
    {.name = "console_rate_limiter",
     .type = Type::kObject,
     .doc = kConsoleLimitDoc,
     .object = &kRateLimiter},
    {.name = "virtio_transport",
     .doc = kTransportDoc,
     .choices = kTransportChoices}};

constexpr Field kBootSourceFields[] = {
    {.name = "kernel_image_path",
     .doc = "Linux kernel: a bzImage or an ELF vmlinux.",
     .required = true,
     .minimum = 1,
     .maximum = kMaxPathLength},
    {.name = "initrd_path",
     .doc = "Initial RAM disk.",
     .minimum = 1,
     .maximum = kMaxPathLength},
    {.name = "boot_args", .doc = "Kernel command line.", .maximum = 2047}};

constexpr Field kCpuConfigFields[] = {{.name = "kvm_capabilities",
                                       .type = Type::kTexts,
                                       .doc = "Not supported.",
                                       .absent = true},
                                      {.name = "cpuid_modifiers",
                                       .type = Type::kObjects,
                                       .doc = "Not supported.",
                                       .absent = true},
                                      {.name = "msr_modifiers",
                                       .type = Type::kObjects,
                                       .doc = "Not supported.",
                                       .absent = true},
                                      {.name = "reg_modifiers",
                                       .type = Type::kObjects,
                                       .doc = "Not supported.",
                                       .absent = true},
                                      {.name = "vcpu_features",
                                       .type = Type::kObjects,
                                       .doc = "Not supported.",
                                       .absent = true}};

constexpr Field kDriveFields[] = {
    {.name = "drive_id",
     .doc = "As in the path.",
     .required = true,
     .minimum = 1,
     .maximum = kMaxIdLength},
    {.name = "path_on_host",
     .doc = "The file or block device that holds the disk.",
     .required = true,
     .minimum = 1,
     .maximum = kMaxPathLength},
    {.name = "is_root_device",
     .type = Type::kBoolean,
     .doc = "Add root=/dev/vda (and ro or rw) to the command line; the drive "
            "becomes the first one.",
     .required = true},
    {.name = "is_read_only",
     .type = Type::kBoolean,
     .doc = "The guest cannot write.",
     .fallback = "false"},
    {.name = "partuuid",
     .doc = "Root is the partition with this UUID instead of the whole disk.",
     .minimum = 1,
     .maximum = kMaxIdLength},
    {.name = "cache_type",
     .doc = "Taken and shown; a flush by the guest is always one on the "
            "host.",
     .choices = "Unsafe|Writeback",
     .fallback = "\"Unsafe\""},
    {.name = "io_engine",
     .doc = "Taken and shown; the monitor uses io_uring where it works, else "
            "a thread.",
     .choices = "Sync|Async",
     .fallback = "\"Sync\""},
    {.name = "rate_limiter",
     .type = Type::kObject,
     .doc = "Limits of this drive.",
     .object = &kRateLimiter},
    {.name = "serial",
     .doc = "The disk's serial number in the guest; the drive_id if there is "
            "none.",
     .minimum = 1,
     .maximum = 20},
    {.name = "direct",
     .type = Type::kBoolean,
     .doc = "Pass the host's page cache by (O_DIRECT); false if it is left "
            "out."},
    {.name = "socket", .doc = "vhost-user: not supported.", .absent = true}};

constexpr Field kDriveUpdateFields[] = {
    {.name = "drive_id",
     .doc = "As in the path.",
     .required = true,
     .minimum = 1,
     .maximum = kMaxIdLength},
    {.name = "path_on_host",
     .doc = "Another file; the guest is told of its size.",
     .minimum = 1,
     .maximum = kMaxPathLength},
    {.name = "rate_limiter",
     .type = Type::kObject,
     .doc = "New limits.",
     .object = &kRateLimiter}};

constexpr Field kNetworkFields[] = {
    {.name = "iface_id",
     .doc = "As in the path.",
     .required = true,
     .minimum = 1,
     .maximum = kMaxIdLength},
    {.name = "host_dev_name",
     .doc = "Name of the host's tap device.",
     .required = true,
     .minimum = 1,
     .maximum = 15},
    {.name = "guest_mac",
     .doc = "\"06:00:ac:10:00:02\"; the monitor chooses one if there is none.",
     .minimum = 17,
     .maximum = 17},
    {.name = "queues",
     .type = Type::kInteger,
     .doc = "Pairs of queues; more than one needs a tap with multi_queue. 1 "
            "if it is left out.",
     .minimum = 1,
     .maximum = 16},
    {.name = "mtu",
     .type = Type::kInteger,
     .doc = "The guest chooses its MTU.",
     .minimum = 68,
     .maximum = 65535,
     .absent = true},
    {.name = "rx_rate_limiter",
     .type = Type::kObject,
     .doc = "Limits of what the guest receives.",
     .object = &kRateLimiter},
    {.name = "tx_rate_limiter",
     .type = Type::kObject,
     .doc = "Limits of what the guest sends.",
     .object = &kRateLimiter}};

constexpr Field kNetworkUpdateFields[] = {
    {.name = "iface_id",
     .doc = "As in the path.",
     .required = true,
     .minimum = 1,
     .maximum = kMaxIdLength},
    {.name = "rx_rate_limiter",
     .type = Type::kObject,
     .doc = "Limits of what the guest receives.",
     .object = &kRateLimiter},
    {.name = "tx_rate_limiter",
     .type = Type::kObject,
     .doc = "Limits of what the guest sends.",
     .object = &kRateLimiter}};

constexpr Field kVsockFields[] = {
    {.name = "guest_cid",
     .type = Type::kInteger,
     .doc = "The guest's context ID.",
     .required = true,
     .minimum = 3,
     .maximum = 0xfffffffe},
    {.name = "uds_path",
     .doc = "Unix socket through which host programs connect.",
     .required = true,
     .minimum = 1,
     .maximum = 100},
    {.name = "vsock_id",
     .doc = "Ignored; old clients send it.",
     .maximum = kMaxIdLength},
    {.name = "rx_rate_limiter",
     .type = Type::kObject,
     .doc = "Limits of what the guest receives.",
     .object = &kRateLimiter},
    {.name = "tx_rate_limiter",
     .type = Type::kObject,
     .doc = "Limits of what the guest sends.",
     .object = &kRateLimiter}};

constexpr Field kEntropyFields[] = {{.name = "rate_limiter",
                                     .type = Type::kObject,
                                     .doc = "Limits of what the guest draws.",
                                     .object = &kRateLimiter}};

constexpr Field kSerialFields[] = {
    {.name = "serial_out_path",
     .doc = "File or named pipe that gets the serial port's output; without it "
            "standard output does.",
     .minimum = 1,
     .maximum = kMaxPathLength},
    {.name = "rate_limiter",
     .type = Type::kObject,
     .doc = "Bytes beyond this limit are dropped and counted.",
     .object = &kTokenBucket}};

constexpr Field kBalloonFields[] = {
    {.name = "amount_mib",
     .type = Type::kInteger,
     .doc = "Memory that the guest is to give up, in MiB.",
     .required = true,
     .maximum = kMaxMemoryMib},
    {.name = "deflate_on_oom",
     .type = Type::kBoolean,
     .doc = "The guest may take memory back when it runs out.",
     .required = true},
    {.name = "stats_polling_interval_s",
     .type = Type::kInteger,
     .doc = "Seconds between statistics; 0: none.",
     .maximum = 65535,
     .fallback = "0"},
    {.name = "free_page_hinting",
     .type = Type::kBoolean,
     .doc = "Not supported.",
     .absent = true},
    {.name = "free_page_reporting",
     .type = Type::kBoolean,
     .doc = "The guest reports pages that it does not use.",
     .fallback = "false"}};

constexpr Field kBalloonUpdateFields[] = {
    {.name = "amount_mib",
     .type = Type::kInteger,
     .doc = "Memory that the guest is to give up, in MiB.",
     .required = true,
     .maximum = kMaxMemoryMib}};

constexpr Field kBalloonStatisticsUpdateFields[] = {
    {.name = "stats_polling_interval_s",
     .type = Type::kInteger,
     .doc = "Seconds between statistics. They cannot be turned on or off once "
            "the VM runs.",
     .required = true,
     .maximum = 65535}};

constexpr Field kBalloonStatisticsFields[] = {
    {.name = "target_pages", .type = Type::kInteger, .doc = "Pages wanted."},
    {.name = "actual_pages", .type = Type::kInteger, .doc = "Pages given up."},
    {.name = "target_mib", .type = Type::kInteger, .doc = "The same in MiB."},
    {.name = "actual_mib", .type = Type::kInteger, .doc = "The same in MiB."},
    {.name = "swap_in", .type = Type::kInteger, .doc = "Bytes swapped in."},
    {.name = "swap_out", .type = Type::kInteger, .doc = "Bytes swapped out."},
    {.name = "major_faults", .type = Type::kInteger, .doc = "Major faults."},
    {.name = "minor_faults", .type = Type::kInteger, .doc = "Minor faults."},
    {.name = "free_memory", .type = Type::kInteger, .doc = "Bytes unused."},
    {.name = "total_memory", .type = Type::kInteger, .doc = "Bytes there are."},
    {.name = "available_memory",
     .type = Type::kInteger,
     .doc = "Bytes that programs could get."},
    {.name = "disk_caches", .type = Type::kInteger, .doc = "Bytes of caches."},
    {.name = "hugetlb_allocations",
     .type = Type::kInteger,
     .doc = "Huge pages allocated."},
    {.name = "hugetlb_failures",
     .type = Type::kInteger,
     .doc = "Huge pages not allocated."}};

}  // namespace

const Object kMachineConfigObject = {"MachineConfiguration",
                                     "vCPUs and memory.", kMachineConfigFields};
const Object kMachineConfigUpdateObject = {"MachineConfigurationUpdate",
                                           "What is to change.",
                                           kMachineConfigUpdateFields};
const Object kBootSourceObject = {"BootSource", "What the guest boots.",
                                  kBootSourceFields};
const Object kCpuConfigObject = {
    "CpuConfig",
    "Accepted while it asks for nothing: the monitor decides what the guest's "
    "processor offers.",
    kCpuConfigFields};
const Object kDriveObject = {"Drive", "A disk.", kDriveFields};
const Object kDriveUpdateObject = {"PartialDrive", "What is to change.",
                                   kDriveUpdateFields};
const Object kNetworkObject = {"NetworkInterface", "A network card.",
                               kNetworkFields};
const Object kNetworkUpdateObject = {
    "PartialNetworkInterface", "What is to change.", kNetworkUpdateFields};
const Object kVsockObject = {"Vsock", "A socket between guest and host.",
                             kVsockFields};
const Object kEntropyObject = {"EntropyDevice", "A source of random numbers.",
                               kEntropyFields};
const Object kSerialObject = {"SerialDevice", "The serial port's output.",
                              kSerialFields};
const Object kBalloonObject = {"Balloon",
                               "Memory that the host asks back from the guest.",
                               kBalloonFields};
const Object kBalloonUpdateObject = {"BalloonUpdate", "What is to change.",
                                     kBalloonUpdateFields};
const Object kBalloonStatisticsObject = {"BalloonStats",
                                         "What the guest says of its memory.",
                                         kBalloonStatisticsFields};
const Object kBalloonStatisticsUpdateObject = {
    "BalloonStatsUpdate", "What is to change.", kBalloonStatisticsUpdateFields};

}  // namespace cloister::api
