// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_VIRTIO_CONTROL_H_
#define CLOISTER_VMM_VIRTIO_CONTROL_H_

#include <functional>
#include <vector>

#include "cloister/devices/virtio/balloon.h"
#include "cloister/devices/virtio/blk.h"
#include "cloister/devices/virtio/console.h"
#include "cloister/devices/virtio/device_state.h"
#include "cloister/devices/virtio/net.h"
#include "cloister/devices/virtio/rng.h"
#include "cloister/devices/virtio/vsock.h"
#include "cloister/vmm/device_control.h"

namespace cloister::vmm {

// The control over virtio devices, each of which outlives this. Devices are
// added before another thread uses it; from then on thread-safe.
class VirtioControl : public DeviceControl {
 public:
  void Add(devices::virtio::Blk* blk);
  void Add(devices::virtio::Net* net);
  void Add(devices::virtio::Vsock* vsock);
  void Add(devices::virtio::Rng* rng);
  void Add(devices::virtio::Balloon* balloon);
  void Add(devices::virtio::Console* console);

  absl::Status UpdateDisk(absl::string_view id,
                          const DiskUpdate& update) override;
  absl::Status UpdateNet(absl::string_view id,
                         const NetUpdate& update) override;
  absl::Status SetBalloonTarget(uint64_t bytes) override;
  absl::Status SetBalloonStatsInterval(std::chrono::seconds interval) override;
  absl::StatusOr<BalloonStatus> Balloon() const override;

  // Null without one.
  devices::virtio::Console* console() const { return console_; }
  // Of every device, in the order of Add. Does not wait.
  std::vector<DeviceCounters> counters() const;

 private:
  std::vector<devices::virtio::Blk*> disks_;
  std::vector<devices::virtio::Net*> nets_;
  devices::virtio::Balloon* balloon_ = nullptr;
  devices::virtio::Console* console_ = nullptr;
  std::vector<std::function<DeviceCounters()>> counters_;
};

// Appends what the transport of a device counted: of a broken driver, of
// resets.
void AddTransportCounters(
    const devices::virtio::DeviceState::Counters& transport,
    NamedValues* counters);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_VIRTIO_CONTROL_H_
