// SPDX-License-Identifier: Apache-2.0
//
// The host's half of the shim: what to write into view A and where to start
// the boot CPU so that a guest with a C-bit launches from private memory. Pure
// computation; the caller writes the memory and sets the registers.
#ifndef CLOISTER_BOOT_SHIM_LAUNCH_H_
#define CLOISTER_BOOT_SHIM_LAUNCH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/boot/launch_image.h"
#include "cloister/boot/shim/handover.h"
#include "cloister/boot/shim/layout.h"
#include "cloister/memory/guest_address.h"

namespace cloister::shim {

// All that decides how a guest starts. Everything but `c_bit` is measured.
struct LaunchOptions {
  // Bit position of the C-bit, as CPUID 0x8000001F EBX[5:0] will tell the
  // guest; 32 to 51.
  int c_bit = 0;
  // All of the guest's RAM: page-aligned, ascending, disjoint; at most
  // kMaxRamRanges.
  std::vector<memory::GuestRange> ram;
  // Page-aligned start of kShimSize bytes of RAM between kLowest and kHighest
  // that no piece overlaps (LaunchImage::FindHighest finds one). The kernel may
  // reuse them: they need no e820 entry of their own.
  memory::GuestAddress shim;
  // What the shim moves from view A to view B, each between kLowest and
  // kHighest: LaunchImage::pieces(), in that order. At most kMaxPieces.
  std::vector<boot::Piece> pieces;
  boot::EntryState entry;
  uint32_t vcpus = 1;
  // The guest may use VMMCALL: the shim reports all RAM from kLowest up as
  // private with KVM_HC_MAP_GPA_RANGE before it enters the kernel.
  bool hypercalls = true;
  // Canonical text of every other setting of the monitor's that reaches the
  // guest (CPU topology, devices, ...). Only its digest is handed over. What
  // the host's CPU adds to CPUID is no setting, and not measured.
  std::string platform;
};

// Bytes for view A.
struct Placement {
  memory::GuestAddress gpa;
  std::vector<uint8_t> bytes;
};

// Registers of the boot CPU: 64-bit mode, CPL 0, interrupts off, flat segments
// with selectors kCodeSelector and kDataSelector; CR0 = PE | PG (and ET, WP as
// you like), CR4 = PAE, EFER = LME | LMA. Other registers do not matter; the
// shim loads its own stack and GDT.
struct StartRegisters {
  memory::GuestAddress rip;
  uint64_t cr3 = 0;
};

// A launch, ready to be written. The pieces themselves also belong into view A,
// at their own addresses.
struct ShimLaunch {
  // The shim with its digest slot filled in, the page tables it starts on, and
  // the hand-over device tree.
  std::vector<Placement> placements;
  StartRegisters start;
  // What the shim uses in both views until the kernel runs.
  memory::GuestRange reserved;
  Handover handover;  // what the hand-over device tree says
  Digest digest;
};

// Page tables as the private entry (kPrivateEntry) needs them, for backends
// that can place pages in private memory before the guest runs (SNP, TDX):
// there `placements` with these tables instead of the others go into view B,
// and CR3 is their address | 1 << c_bit.
Placement PrivatePageTables(memory::GuestAddress shim, int c_bit);

// The hand-over for `options`, with every piece hashed. InvalidArgument, naming
// the reason, if the shim would refuse it: RAM, pieces, entry or the shim's own
// place break the rules above.
absl::StatusOr<Handover> MakeHandover(const LaunchOptions& options);

// The digest slot's content for `handover` with this repository's shim image.
Digest ComputeLaunchDigest(const Handover& handover);

// 64 lower-case hexadecimal digits.
std::string DigestHex(const Digest& digest);

// Builds the whole launch. Errors: as MakeHandover.
absl::StatusOr<ShimLaunch> BuildShimLaunch(const LaunchOptions& options);

}  // namespace cloister::shim

#endif  // CLOISTER_BOOT_SHIM_LAUNCH_H_
