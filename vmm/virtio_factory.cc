// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/virtio_factory.h"

#include <fcntl.h>

#include <cerrno>
#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/unique_fd.h"
#include "cloister/devices/virtio/balloon.h"
#include "cloister/devices/virtio/blk.h"
#include "cloister/devices/virtio/console.h"
#include "cloister/devices/virtio/net.h"
#include "cloister/devices/virtio/net_mac.h"
#include "cloister/devices/virtio/rng.h"
#include "cloister/devices/virtio/tap.h"
#include "cloister/devices/virtio/vsock.h"
#include "cloister/devices/virtio/worker.h"

namespace cloister::vmm {

using devices::virtio::Balloon;
using devices::virtio::Blk;
using devices::virtio::Console;
using devices::virtio::Net;
using devices::virtio::NetMac;
using devices::virtio::NetPort;
using devices::virtio::Rng;
using devices::virtio::Tap;
using devices::virtio::VirtioDevice;
using devices::virtio::Vsock;
using devices::virtio::Worker;

namespace {

using Devices = std::vector<std::unique_ptr<VirtioDevice>>;

absl::StatusOr<std::unique_ptr<Blk>> CreateDisk(
    const DevicesConfig& config, size_t index,
    const VirtioFactoryOptions& factory) {
  const DiskConfig& disk = config.disks[index];
  Blk::Options options;
  options.name = DiskId(config, index);
  options.file.path = disk.path;
  options.file.read_only = disk.read_only;
  options.file.direct = disk.direct;
  options.serial =
      disk.serial.empty() ? options.name.substr(0, 20) : disk.serial;
  options.limit = disk.limit;
  options.engine.on_thread_start = factory.on_thread_start;
  options.logger = factory.log;
  ASSIGN_OR_RETURN(std::unique_ptr<Worker> worker,
                   Worker::Create(options.name, factory.on_thread_start));
  return Blk::Create(std::move(options), std::move(worker));
}

absl::StatusOr<std::vector<std::unique_ptr<NetPort>>> OpenPorts(
    const NetConfig& net) {
  std::vector<std::unique_ptr<NetPort>> ports;
  std::string name;
  for (int number : net.fds) {
    // A copy: the caller's stays for the next launch.
    base::UniqueFd fd(fcntl(number, F_DUPFD_CLOEXEC, 0));
    if (!fd.valid()) {
      return absl::ErrnoToStatus(errno, absl::StrCat("fd=", number));
    }
    absl::StatusOr<std::unique_ptr<Tap>> tap = Tap::FromFd(std::move(fd));
    if (!tap.ok()) {
      return absl::Status(
          tap.status().code(),
          absl::StrCat("fd=", number, ": ", tap.status().message()));
    }
    if (!name.empty() && (*tap)->name() != name) {
      return absl::InvalidArgumentError(
          absl::StrCat("fd=", number, ": a queue of ", (*tap)->name(),
                       ", and the ones before are of ", name));
    }
    name = (*tap)->name();
    ports.push_back(*std::move(tap));
  }
  if (!ports.empty()) return ports;
  ASSIGN_OR_RETURN(std::vector<std::unique_ptr<Tap>> taps,
                   Tap::Open(net.tap, static_cast<int>(net.queues)));
  for (std::unique_ptr<Tap>& tap : taps) ports.push_back(std::move(tap));
  return ports;
}

absl::StatusOr<std::unique_ptr<Net>> CreateNet(
    const DevicesConfig& config, size_t index,
    const VirtioFactoryOptions& factory) {
  const NetConfig& net = config.nets[index];
  ASSIGN_OR_RETURN(NetMac mac,
                   net.mac.empty() ? NetMac::Random() : NetMac::Parse(net.mac));
  ASSIGN_OR_RETURN(auto ports, OpenPorts(net));
  Net::Options options{.name = NetId(config, index),
                       .mac = mac,
                       .rx_limit = net.rx_limit,
                       .tx_limit = net.tx_limit};
  ASSIGN_OR_RETURN(std::unique_ptr<Worker> worker,
                   Worker::Create(options.name, factory.on_thread_start));
  return Net::Create(std::move(options), std::move(ports), std::move(worker));
}

absl::StatusOr<std::unique_ptr<Rng>> CreateRng(
    const RngConfig& config, const VirtioFactoryOptions& factory) {
  Rng::Options options;
  options.limit = config.limit;
  ASSIGN_OR_RETURN(std::unique_ptr<Worker> worker,
                   Worker::Create(options.name, factory.on_thread_start));
  return Rng::Create(std::move(options), std::move(worker));
}

absl::StatusOr<std::unique_ptr<Vsock>> CreateVsock(
    const VsockConfig& config, const VirtioFactoryOptions& factory) {
  Vsock::Options options;
  options.cid = config.cid;
  options.path = config.path;
  options.rx_limit = config.rx_limit;
  options.tx_limit = config.tx_limit;
  ASSIGN_OR_RETURN(std::unique_ptr<Worker> worker,
                   Worker::Create(options.name, factory.on_thread_start));
  return Vsock::Create(std::move(options), std::move(worker));
}

absl::StatusOr<std::unique_ptr<Balloon>> CreateBalloon(
    const BalloonConfig& config, const VirtioFactoryOptions& factory) {
  if (factory.balloon_pages == nullptr) {
    return absl::InternalError("no memory to take from");
  }
  Balloon::Options options;
  options.target = config.target;
  options.max = factory.ram;
  options.deflate_on_oom = config.deflate_on_oom;
  options.reporting = config.reporting;
  options.stats_interval = std::chrono::seconds(config.stats_seconds);
  ASSIGN_OR_RETURN(std::unique_ptr<Worker> worker,
                   Worker::Create(options.name, factory.on_thread_start));
  return Balloon::Create(std::move(options), *factory.balloon_pages,
                         std::move(worker));
}

absl::StatusOr<std::unique_ptr<Console>> CreateConsole(
    const ConsoleConfig& config, const VirtioFactoryOptions& factory) {
  if (factory.console == nullptr) {
    return absl::InternalError("nothing to write to");
  }
  Console::Options options;
  options.tx_limit = config.tx_limit;
  options.on_input_room = factory.on_console_room;
  ASSIGN_OR_RETURN(std::unique_ptr<Worker> worker,
                   Worker::Create(options.name, factory.on_thread_start));
  return Console::Create(std::move(options), *factory.console,
                         std::move(worker));
}

// `device`, if it could be made, with the others; `control` may be null.
template <typename T>
absl::Status Take(absl::string_view option,
                  absl::StatusOr<std::unique_ptr<T>> device,
                  VirtioControl* control, Devices* devices) {
  if (!device.ok()) {
    return absl::Status(device.status().code(),
                        absl::StrCat(option, ": ", device.status().message()));
  }
  if (control != nullptr) control->Add(device->get());
  devices->push_back(*std::move(device));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Devices> CreateVirtioDevices(
    const DevicesConfig& config, const VirtioFactoryOptions& options) {
  Devices devices;
  VirtioControl* const control = options.control;
  for (size_t i = 0; i < config.disks.size(); ++i) {
    RETURN_IF_ERROR(
        Take("--disk", CreateDisk(config, i, options), control, &devices));
  }
  for (size_t i = 0; i < config.nets.size(); ++i) {
    RETURN_IF_ERROR(
        Take("--net", CreateNet(config, i, options), control, &devices));
  }
  if (config.vsock.has_value()) {
    RETURN_IF_ERROR(Take("--vsock", CreateVsock(*config.vsock, options),
                         control, &devices));
  }
  if (config.rng.has_value()) {
    RETURN_IF_ERROR(
        Take("--rng", CreateRng(*config.rng, options), control, &devices));
  }
  if (config.balloon.has_value()) {
    RETURN_IF_ERROR(Take("--balloon", CreateBalloon(*config.balloon, options),
                         control, &devices));
  }
  if (config.console.has_value()) {
    RETURN_IF_ERROR(Take("--console", CreateConsole(*config.console, options),
                         control, &devices));
  }
  return devices;
}

}  // namespace cloister::vmm
