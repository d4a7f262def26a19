// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_I8042_H_
#define CLOISTER_DEVICES_I8042_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/mutex.h"
#include "cloister/devices/bus.h"
#include "cloister/devices/irq_line.h"

namespace cloister::devices {

// A keyboard controller (Intel 8042 as in the IBM PC/AT) with a keyboard and no
// auxiliary port: enough for Linux's i8042 and atkbd drivers to find a
// keyboard, for a guest to reset itself with command 0xFE, and for
// SendCtrlAltDel.
//
// Insert it twice: at the data port (0x60) and at the command port (0x64) with
// data_port() and command_port(). Commands complete at once: status never has
// IBF set, so no poll spins, and the auxiliary loop and test commands answer
// "no port" instead of letting the driver time out. A20 is always on; what a
// guest writes for it is only stored. Thread-safe.
class I8042 {
 public:
  struct Options {
    // Called on a vCPU's thread, without a lock, whenever the guest pulses the
    // reset line. Required.
    std::function<void()> on_reset;
  };

  // `keyboard_irq` (IRQ 1 on a PC, level semantics) must outlive the object.
  I8042(Options options, IrqLine& keyboard_irq);
  I8042(const I8042&) = delete;
  I8042& operator=(const I8042&) = delete;

  // Single-port devices; use an aliasing shared_ptr to insert them.
  BusDevice& data_port() { return data_port_; }
  BusDevice& command_port() { return command_port_; }

  // Types Ctrl-Alt-Del. False, and nothing typed, if the guest has not enabled
  // its keyboard or has too many unread bytes.
  bool SendCtrlAltDel();

 private:
  // What the bus sees of one of the two ports.
  class Port : public BusDevice {
   public:
    Port(I8042& owner, bool command) : owner_(owner), command_(command) {}
    absl::string_view name() const override;
    void Read(uint64_t offset, absl::Span<uint8_t> data) override;
    void Write(uint64_t offset, absl::Span<const uint8_t> data) override;

   private:
    I8042& owner_;
    const bool command_;
  };

  // What the next byte to the data port belongs to.
  enum class Expect { kKeyboard, kController, kKeyboardArgument };

  uint8_t ReadStatus() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t ReadData() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Both return true if the guest asked for a reset.
  bool WriteCommand(uint8_t command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool WriteData(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool WriteControllerData(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void KeyboardCommand(uint8_t command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void KeyboardArgument(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ResetKeyboard(bool scanning) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool KeyboardClockOn() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool OutputFull() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Reply(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PushKeyboard(uint8_t byte) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateIrq() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  static constexpr size_t kQueueSize = 32;

  const Options options_;
  IrqLine& irq_;
  Port data_port_;
  Port command_port_;

  base::Mutex mutex_;
  uint8_t config_ ABSL_GUARDED_BY(mutex_);
  uint8_t output_port_ ABSL_GUARDED_BY(mutex_);
  Expect expect_ ABSL_GUARDED_BY(mutex_) = Expect::kKeyboard;
  uint8_t pending_command_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t pending_keyboard_ ABSL_GUARDED_BY(mutex_) = 0;
  bool last_was_command_ ABSL_GUARDED_BY(mutex_) = false;
  // The controller's own answer goes before the keyboard's bytes.
  bool reply_full_ ABSL_GUARDED_BY(mutex_) = false;
  uint8_t reply_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t last_data_ ABSL_GUARDED_BY(mutex_) = 0;
  std::array<uint8_t, 32> ram_ ABSL_GUARDED_BY(mutex_) = {};
  std::array<uint8_t, kQueueSize> queue_ ABSL_GUARDED_BY(mutex_) = {};
  size_t queue_head_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t queue_count_ ABSL_GUARDED_BY(mutex_) = 0;
  bool scanning_ ABSL_GUARDED_BY(mutex_) = true;
  uint8_t scan_set_ ABSL_GUARDED_BY(mutex_) = 2;
  bool irq_level_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace cloister::devices

#endif  // CLOISTER_DEVICES_I8042_H_
