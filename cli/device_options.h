// SPDX-License-Identifier: Apache-2.0
//
// The texts that describe devices on the command line: a value, or several of
// them and key=value pairs, between commas.
#ifndef CLOISTER_CLI_DEVICE_OPTIONS_H_
#define CLOISTER_CLI_DEVICE_OPTIONS_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/vmm/device_config.h"

namespace cloister::cli {

// LIMITS are "bps=SIZE[,bps_burst=SIZE]", bytes a second and as many more once,
// and the same for operations, which each device calls by a name of its own.

// "PATH[,ro][,direct][,serial=TEXT][,id=NAME][,LIMITS]", with iops. The path
// has no comma. InvalidArgument, naming the part, for anything else.
absl::StatusOr<vmm::DiskConfig> ParseDisk(absl::string_view text);

// "tap=NAME|fd=N[:N...][,mac=ADDRESS][,queues=N][,id=NAME][,LIMITS]", with pps;
// they hold in each direction. As many queues as descriptors.
absl::StatusOr<vmm::NetConfig> ParseNet(absl::string_view text);

// "cid=N,path=PATH[,LIMITS]", with pps, in each direction.
absl::StatusOr<vmm::VsockConfig> ParseVsock(absl::string_view text);

// "target=SIZE", "oom", "reporting" and "stats=SECONDS", or nothing.
absl::StatusOr<vmm::BalloonConfig> ParseBalloon(absl::string_view text);

// LIMITS or nothing, with ops, of what the guest draws.
absl::StatusOr<vmm::RngConfig> ParseRng(absl::string_view text);

// LIMITS or nothing, with ops, of what the guest writes.
absl::StatusOr<vmm::ConsoleConfig> ParseConsoleLimits(absl::string_view text);

// "pci", "mmio" or "mmio-fdt".
absl::StatusOr<vmm::VirtioTransport> ParseVirtioTransport(
    absl::string_view text);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_DEVICE_OPTIONS_H_
