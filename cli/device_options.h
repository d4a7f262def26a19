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

// "PATH[,ro][,direct][,serial=TEXT][,id=NAME][,bps=SIZE][,iops=N]". The path
// has no comma. InvalidArgument, naming the part, for anything else.
absl::StatusOr<vmm::DiskConfig> ParseDisk(absl::string_view text);

// "tap=NAME|fd=N[,mac=ADDRESS][,queues=N][,id=NAME][,bps=SIZE][,pps=N]"; the
// limits hold in each direction.
absl::StatusOr<vmm::NetConfig> ParseNet(absl::string_view text);

// "cid=N,path=PATH[,bps=SIZE]".
absl::StatusOr<vmm::VsockConfig> ParseVsock(absl::string_view text);

// "target=SIZE", "oom", "reporting" and "stats=SECONDS", or nothing.
absl::StatusOr<vmm::BalloonConfig> ParseBalloon(absl::string_view text);

// "pci", "mmio" or "mmio-fdt".
absl::StatusOr<vmm::VirtioTransport> ParseVirtioTransport(
    absl::string_view text);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_DEVICE_OPTIONS_H_
