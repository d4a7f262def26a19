// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_PCI_BAR_H_
#define CLOISTER_DEVICES_PCI_BAR_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "cloister/devices/bus.h"

namespace cloister::devices {

// Keeps what is behind a BAR on its bus where the guest wants it. Not
// thread-safe.
class PciBar {
 public:
  // `bus` must outlive the BAR.
  PciBar(Bus& bus, uint64_t size) : bus_(&bus), size_(size) {}

  // Moves `device` to `wanted`, or takes it off the bus. A place that others
  // hold leaves it off the bus and is counted. True if anything changed.
  bool Update(std::optional<uint64_t> wanted,
              const std::shared_ptr<BusDevice>& device) {
    if (wanted == wanted_) return false;
    wanted_ = wanted;
    const std::optional<uint64_t> before = address_;
    if (wanted.has_value() && address_.has_value() &&
        bus_->Move(*address_, *wanted).ok()) {
      address_ = wanted;
      return true;
    }
    if (address_.has_value()) bus_->Remove(*address_).IgnoreError();
    address_.reset();
    if (wanted.has_value()) {
      if (bus_->Insert(*wanted, size_, device).ok()) {
        address_ = wanted;
      } else {
        ++conflicts_;
      }
    }
    return address_ != before;
  }

  // Where it is on the bus.
  std::optional<uint64_t> address() const { return address_; }
  // Times the guest asked for a place that was taken.
  uint64_t conflicts() const { return conflicts_; }

 private:
  Bus* bus_;
  uint64_t size_;
  std::optional<uint64_t> wanted_;
  std::optional<uint64_t> address_;
  uint64_t conflicts_ = 0;
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_PCI_BAR_H_
