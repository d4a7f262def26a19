// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/i8042.h"

#include <utility>

namespace cloister::devices {
namespace {

constexpr uint8_t kStatusOutputFull = 0x01;
constexpr uint8_t kStatusSystem = 0x04;
constexpr uint8_t kStatusCommand = 0x08;
constexpr uint8_t kStatusUnlocked = 0x10;

constexpr uint8_t kConfigKeyboardIrq = 0x01;
constexpr uint8_t kConfigSystem = 0x04;
constexpr uint8_t kConfigKeyboardOff = 0x10;
constexpr uint8_t kConfigAuxOff = 0x20;
constexpr uint8_t kConfigTranslate = 0x40;

constexpr uint8_t kOutputPortRun = 0x01;  // 0 resets the machine.
constexpr uint8_t kOutputPortA20 = 0x02;

// Controller commands (port 0x64).
constexpr uint8_t kReadRam = 0x20;  // To 0x3f; byte 0 is the configuration.
constexpr uint8_t kWriteRam = 0x60;
constexpr uint8_t kRamMask = 0x1f;
constexpr uint8_t kDisableAux = 0xa7;
constexpr uint8_t kEnableAux = 0xa8;
constexpr uint8_t kTestAux = 0xa9;
constexpr uint8_t kSelfTest = 0xaa;
constexpr uint8_t kTestKeyboard = 0xab;
constexpr uint8_t kDisableKeyboard = 0xad;
constexpr uint8_t kEnableKeyboard = 0xae;
constexpr uint8_t kReadInputPort = 0xc0;
constexpr uint8_t kReadOutputPort = 0xd0;
constexpr uint8_t kWriteOutputPort = 0xd1;
constexpr uint8_t kWriteKeyboardBuffer = 0xd2;
constexpr uint8_t kWriteAuxBuffer = 0xd3;
constexpr uint8_t kWriteAux = 0xd4;
constexpr uint8_t kA20Off = 0xdd;
constexpr uint8_t kA20On = 0xdf;
constexpr uint8_t kPulse = 0xf0;  // To 0xff; a clear bit 0 pulses reset.

constexpr uint8_t kSelfTestPassed = 0x55;
constexpr uint8_t kAuxClockStuck = 0x01;
constexpr uint8_t kInputPort = 0x80;  // Keyboard not locked.

// Keyboard commands (port 0x60).
constexpr uint8_t kSetLeds = 0xed;
constexpr uint8_t kEcho = 0xee;
constexpr uint8_t kSetScanSet = 0xf0;
constexpr uint8_t kIdentify = 0xf2;
constexpr uint8_t kSetRate = 0xf3;
constexpr uint8_t kEnableScanning = 0xf4;
constexpr uint8_t kDisableScanning = 0xf5;
constexpr uint8_t kSetDefaults = 0xf6;
constexpr uint8_t kResend = 0xfe;
constexpr uint8_t kResetKeyboard = 0xff;

constexpr uint8_t kAck = 0xfa;
constexpr uint8_t kBatPassed = 0xaa;
constexpr uint8_t kIdFirst = 0xab;
constexpr uint8_t kIdSecond = 0x83;
constexpr uint8_t kIdSecondTranslated = 0x41;

// Ctrl, Alt, Del (the extended one), pressed and let go.
constexpr uint8_t kCtrlAltDelSet1[] = {0x1d, 0x38, 0xe0, 0x53,
                                       0xe0, 0xd3, 0xb8, 0x9d};
constexpr uint8_t kCtrlAltDelSet2[] = {0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0,
                                       0x71, 0xf0, 0x11, 0xf0, 0x14};

}  // namespace

absl::string_view I8042::Port::name() const {
  return command_ ? "i8042-command" : "i8042-data";
}

void I8042::Port::Read(uint64_t, absl::Span<uint8_t> data) {
  base::MutexLock lock(&owner_.mutex_);
  for (uint8_t& byte : data) {
    byte = command_ ? owner_.ReadStatus() : owner_.ReadData();
  }
}

void I8042::Port::Write(uint64_t, absl::Span<const uint8_t> data) {
  for (uint8_t byte : data) {
    bool reset;
    {
      base::MutexLock lock(&owner_.mutex_);
      reset = command_ ? owner_.WriteCommand(byte) : owner_.WriteData(byte);
      owner_.UpdateIrq();
    }
    if (reset) owner_.options_.on_reset();
  }
}

I8042::I8042(Options options, IrqLine& keyboard_irq)
    : options_(std::move(options)),
      irq_(keyboard_irq),
      data_port_(*this, false),
      command_port_(*this, true),
      config_(kConfigKeyboardIrq | kConfigSystem | kConfigAuxOff |
              kConfigTranslate),
      output_port_(kOutputPortRun | kOutputPortA20) {}

uint8_t I8042::ReadStatus() {
  uint8_t status = kStatusUnlocked;
  if (OutputFull()) status |= kStatusOutputFull;
  if (config_ & kConfigSystem) status |= kStatusSystem;
  if (last_was_command_) status |= kStatusCommand;
  return status;
}

uint8_t I8042::ReadData() {
  if (!OutputFull()) return last_data_;
  if (reply_full_) {
    reply_full_ = false;
    last_data_ = reply_;
  } else {
    last_data_ = queue_[queue_head_];
    queue_head_ = (queue_head_ + 1) % kQueueSize;
    --queue_count_;
  }
  // The line drops with each byte, so that the next one is an edge.
  if (irq_level_) {
    irq_level_ = false;
    irq_.SetLevel(false);
  }
  UpdateIrq();
  return last_data_;
}

bool I8042::WriteCommand(uint8_t command) {
  last_was_command_ = true;
  expect_ = Expect::kKeyboard;
  if (command >= kPulse) return (command & kOutputPortRun) == 0;
  if (command >= kReadRam && command <= kReadRam + kRamMask) {
    const uint8_t index = command & kRamMask;
    Reply(index == 0 ? config_ : ram_[index]);
    return false;
  }
  if (command >= kWriteRam && command <= kWriteRam + kRamMask) {
    expect_ = Expect::kController;
    pending_command_ = command;
    return false;
  }
  switch (command) {
    case kDisableAux:
      config_ |= kConfigAuxOff;
      break;
    case kEnableAux:
      config_ &= ~kConfigAuxOff;
      break;
    case kTestAux:
      Reply(kAuxClockStuck);
      break;
    case kSelfTest:
      config_ |= kConfigSystem;
      Reply(kSelfTestPassed);
      break;
    case kTestKeyboard:
      Reply(0);
      break;
    case kDisableKeyboard:
      config_ |= kConfigKeyboardOff;
      break;
    case kEnableKeyboard:
      config_ &= ~kConfigKeyboardOff;
      break;
    case kReadInputPort:
      Reply(kInputPort);
      break;
    case kReadOutputPort:
      Reply(output_port_);
      break;
    case kA20Off:
      output_port_ &= ~kOutputPortA20;
      break;
    case kA20On:
      output_port_ |= kOutputPortA20;
      break;
    case kWriteOutputPort:
    case kWriteKeyboardBuffer:
    case kWriteAuxBuffer:
    case kWriteAux:
      expect_ = Expect::kController;
      pending_command_ = command;
      break;
    default:
      break;
  }
  return false;
}

bool I8042::WriteData(uint8_t value) {
  last_was_command_ = false;
  switch (std::exchange(expect_, Expect::kKeyboard)) {
    case Expect::kController:
      return WriteControllerData(value);
    case Expect::kKeyboardArgument:
      KeyboardArgument(value);
      return false;
    case Expect::kKeyboard:
      config_ &= ~kConfigKeyboardOff;  // As the real controller does.
      KeyboardCommand(value);
      return false;
  }
  return false;
}

bool I8042::WriteControllerData(uint8_t value) {
  switch (pending_command_) {
    case kWriteOutputPort:
      output_port_ = value | kOutputPortRun;
      return (value & kOutputPortRun) == 0;
    case kWriteKeyboardBuffer:
      Reply(value);
      return false;
    case kWriteAuxBuffer:
      // Not what was sent, and not marked as auxiliary: there is no such port.
      Reply(static_cast<uint8_t>(~value));
      return false;
    case kWriteAux:
      return false;
    default:
      if ((pending_command_ & kRamMask) == 0) {
        config_ = value;
      } else {
        ram_[pending_command_ & kRamMask] = value;
      }
      return false;
  }
}

void I8042::KeyboardCommand(uint8_t command) {
  switch (command) {
    case kEcho:
      PushKeyboard(kEcho);
      return;
    case kSetLeds:
    case kSetScanSet:
    case kSetRate:
      expect_ = Expect::kKeyboardArgument;
      pending_keyboard_ = command;
      PushKeyboard(kAck);
      return;
    case kIdentify:
      PushKeyboard(kAck);
      PushKeyboard(kIdFirst);
      PushKeyboard((config_ & kConfigTranslate) ? kIdSecondTranslated
                                                : kIdSecond);
      return;
    case kEnableScanning:
      scanning_ = true;
      PushKeyboard(kAck);
      return;
    case kDisableScanning:
      ResetKeyboard(/*scanning=*/false);
      PushKeyboard(kAck);
      return;
    case kSetDefaults:
      ResetKeyboard(/*scanning=*/true);
      PushKeyboard(kAck);
      return;
    case kResetKeyboard:
      ResetKeyboard(/*scanning=*/true);
      PushKeyboard(kAck);
      PushKeyboard(kBatPassed);
      return;
    case kResend:
      PushKeyboard(last_data_);
      return;
    default:
      PushKeyboard(kResend);
  }
}

void I8042::KeyboardArgument(uint8_t value) {
  PushKeyboard(kAck);
  if (pending_keyboard_ != kSetScanSet) return;
  if (value == 0) PushKeyboard(scan_set_);
  if (value == 1 || value == 2) scan_set_ = value;
}

// Its settings, and what it has not sent yet.
void I8042::ResetKeyboard(bool scanning) {
  queue_head_ = 0;
  queue_count_ = 0;
  scan_set_ = 2;
  scanning_ = scanning;
}

bool I8042::KeyboardClockOn() const {
  return (config_ & kConfigKeyboardOff) == 0;
}

bool I8042::OutputFull() const {
  return reply_full_ || (queue_count_ != 0 && KeyboardClockOn());
}

void I8042::Reply(uint8_t value) {
  reply_ = value;
  reply_full_ = true;
}

void I8042::PushKeyboard(uint8_t byte) {
  if (queue_count_ == kQueueSize) return;
  queue_[(queue_head_ + queue_count_++) % kQueueSize] = byte;
}

void I8042::UpdateIrq() {
  const bool level = OutputFull() && (config_ & kConfigKeyboardIrq) != 0;
  if (level == irq_level_) return;
  irq_level_ = level;
  irq_.SetLevel(level);
}

bool I8042::SendCtrlAltDel() {
  base::MutexLock lock(&mutex_);
  // The controller translates set 2 to set 1; a keyboard set to 1 already
  // sends that, and nobody translates it a second time.
  const bool set1 = scan_set_ == 1 || (config_ & kConfigTranslate) != 0;
  const absl::Span<const uint8_t> codes =
      set1 ? absl::MakeConstSpan(kCtrlAltDelSet1)
           : absl::MakeConstSpan(kCtrlAltDelSet2);
  if (!scanning_ || !KeyboardClockOn() || (config_ & kConfigKeyboardIrq) == 0 ||
      codes.size() > kQueueSize - queue_count_) {
    return false;
  }
  for (uint8_t code : codes) PushKeyboard(code);
  UpdateIrq();
  return true;
}

}  // namespace cloister::devices
