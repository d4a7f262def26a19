// SPDX-License-Identifier: Apache-2.0
//
// Vm's interrupt controllers, lines, messages and ioeventfds.
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/kvm/uapi.h"
#include "cloister/kvm/vm.h"

namespace cloister::kvm {
namespace {

static_assert(static_cast<uint32_t>(IrqchipPin::Chip::kPicMaster) ==
              KVM_IRQCHIP_PIC_MASTER);
static_assert(static_cast<uint32_t>(IrqchipPin::Chip::kPicSlave) ==
              KVM_IRQCHIP_PIC_SLAVE);
static_assert(static_cast<uint32_t>(IrqchipPin::Chip::kIoapic) ==
              KVM_IRQCHIP_IOAPIC);
static_assert(kIoapicPins == KVM_IOAPIC_NUM_PINS);

struct kvm_irq_routing_entry ToKvm(const Route& route) {
  struct kvm_irq_routing_entry entry = {};
  entry.gsi = route.gsi.value();
  if (const auto* pin = std::get_if<IrqchipPin>(&route.target)) {
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip.irqchip = static_cast<uint32_t>(pin->chip);
    entry.u.irqchip.pin = pin->pin;
  } else {
    const Msi& msi = std::get<Msi>(route.target);
    entry.type = KVM_IRQ_ROUTING_MSI;
    entry.u.msi.address_lo = static_cast<uint32_t>(msi.address);
    entry.u.msi.address_hi = static_cast<uint32_t>(msi.address >> 32);
    entry.u.msi.data = msi.data;
  }
  return entry;
}

}  // namespace

absl::Status Vm::CreateIrqchip() const {
  if (IoctlNumber(KVM_CREATE_IRQCHIP, 0) < 0) {
    return base::ErrnoStatus(errno, "KVM_CREATE_IRQCHIP");
  }
  return absl::OkStatus();
}

absl::Status Vm::CreatePit() const {
  struct kvm_pit_config config = {};
  config.flags = KVM_PIT_SPEAKER_DUMMY;
  if (Ioctl(KVM_CREATE_PIT2, &config) < 0) {
    return base::ErrnoStatus(errno, "KVM_CREATE_PIT2");
  }
  return absl::OkStatus();
}

absl::Status Vm::EnableSplitIrqchip(uint32_t ioapic_pins) const {
  return EnableCapability(Capability::kSplitIrqchip, ioapic_pins);
}

absl::Status Vm::EnableX2apicApi() const {
  return EnableCapability(
      Capability::kX2apicApi,
      KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
}

absl::Status Vm::SetBootCpuId(uint32_t id) const {
  if (IoctlNumber(KVM_SET_BOOT_CPU_ID, id) < 0) {
    return base::ErrnoStatus(errno,
                             absl::StrCat("KVM_SET_BOOT_CPU_ID(", id, ")"));
  }
  return absl::OkStatus();
}

absl::Status Vm::SetIrqLine(Gsi gsi, bool level) const {
  struct kvm_irq_level line = {};
  line.irq = gsi.value();
  line.level = level ? 1 : 0;
  if (Ioctl(KVM_IRQ_LINE, &line) < 0) {
    return base::ErrnoStatus(
        errno,
        absl::StrCat("KVM_IRQ_LINE(GSI ", gsi.value(), ", ", level, ")"));
  }
  return absl::OkStatus();
}

absl::Status Vm::AttachIrqfd(int event_fd, Gsi gsi,
                             std::optional<int> resample_fd) const {
  struct kvm_irqfd irqfd = {};
  irqfd.fd = static_cast<uint32_t>(event_fd);
  irqfd.gsi = gsi.value();
  if (resample_fd.has_value()) {
    irqfd.flags = KVM_IRQFD_FLAG_RESAMPLE;
    irqfd.resamplefd = static_cast<uint32_t>(*resample_fd);
  }
  if (Ioctl(KVM_IRQFD, &irqfd) < 0) {
    return base::ErrnoStatus(
        errno, absl::StrCat("KVM_IRQFD(fd ", event_fd, ", GSI ", gsi.value(),
                            resample_fd.has_value() ? ", resample)" : ")"));
  }
  return absl::OkStatus();
}

absl::Status Vm::DetachIrqfd(int event_fd, Gsi gsi) const {
  struct kvm_irqfd irqfd = {};
  irqfd.fd = static_cast<uint32_t>(event_fd);
  irqfd.gsi = gsi.value();
  irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
  if (Ioctl(KVM_IRQFD, &irqfd) < 0) {
    return base::ErrnoStatus(
        errno, absl::StrCat("KVM_IRQFD(detach fd ", event_fd, ", GSI ",
                            gsi.value(), ")"));
  }
  return absl::OkStatus();
}

absl::Status Vm::SignalMsi(const Msi& msi) const {
  struct kvm_msi argument = {};
  argument.address_lo = static_cast<uint32_t>(msi.address);
  argument.address_hi = static_cast<uint32_t>(msi.address >> 32);
  argument.data = msi.data;
  if (Ioctl(KVM_SIGNAL_MSI, &argument) < 0) {
    return base::ErrnoStatus(
        errno, absl::StrCat("KVM_SIGNAL_MSI(address 0x", absl::Hex(msi.address),
                            ", data 0x", absl::Hex(msi.data), ")"));
  }
  return absl::OkStatus();
}

absl::Status Vm::SetGsiRouting(absl::Span<const Route> routes) const {
  struct kvm_irq_routing header = {};
  header.nr = static_cast<uint32_t>(routes.size());
  constexpr size_t kEntry = sizeof(struct kvm_irq_routing_entry);
  std::vector<uint8_t> table(sizeof(header) + routes.size() * kEntry);
  std::memcpy(table.data(), &header, sizeof(header));
  for (size_t i = 0; i < routes.size(); ++i) {
    struct kvm_irq_routing_entry entry = ToKvm(routes[i]);
    std::memcpy(table.data() + sizeof(header) + i * kEntry, &entry, kEntry);
  }
  if (Ioctl(KVM_SET_GSI_ROUTING, table.data()) < 0) {
    return base::ErrnoStatus(
        errno, absl::StrCat("KVM_SET_GSI_ROUTING(", routes.size(), " routes)"));
  }
  return absl::OkStatus();
}

absl::Status Vm::AttachIoeventfd(const IoEvent& event, int event_fd) const {
  return ChangeIoeventfd(event, event_fd, 0, "");
}

absl::Status Vm::DetachIoeventfd(const IoEvent& event, int event_fd) const {
  return ChangeIoeventfd(event, event_fd, KVM_IOEVENTFD_FLAG_DEASSIGN,
                         "detach ");
}

absl::Status Vm::ChangeIoeventfd(const IoEvent& event, int event_fd,
                                 uint32_t flags, const char* what) const {
  struct kvm_ioeventfd argument = {};
  argument.addr = event.address;
  argument.len = event.length;
  argument.fd = event_fd;
  argument.flags = flags;
  if (event.space == IoEvent::Space::kPio) {
    argument.flags |= KVM_IOEVENTFD_FLAG_PIO;
  }
  if (event.datamatch.has_value()) {
    argument.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
    argument.datamatch = *event.datamatch;
  }
  if (Ioctl(KVM_IOEVENTFD, &argument) < 0) {
    return base::ErrnoStatus(
        errno, absl::StrCat("KVM_IOEVENTFD(", what, event.ToString(), ", fd ",
                            event_fd, ")"));
  }
  return absl::OkStatus();
}

}  // namespace cloister::kvm
