// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/fake_kernel.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

#include "cloister/base/bytes.h"
#include "cloister/boot/fake_compress.h"

namespace cloister::boot {

std::vector<FakeSegment> LinuxLikeSegments() {
  return {
      {0x1000000, 0xffffffff81000000, std::vector<uint8_t>(64, 0x90), 64},
      {0x1200000, 0xffffffff81200000, std::vector<uint8_t>(32, 0x55), 0x1000}};
}

std::vector<uint8_t> MakeElf(const std::vector<FakeSegment>& segments,
                             uint64_t entry) {
  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_entry = entry;
  header.e_phoff = sizeof(header);
  header.e_ehsize = sizeof(header);
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = static_cast<uint16_t>(segments.size());
  std::vector<uint8_t> file(sizeof(header) +
                            segments.size() * sizeof(Elf64_Phdr));
  std::memcpy(file.data(), &header, sizeof(header));
  for (size_t i = 0; i < segments.size(); ++i) {
    Elf64_Phdr load = {};
    load.p_type = PT_LOAD;
    load.p_flags = PF_R | PF_W | PF_X;
    load.p_offset = file.size();
    load.p_vaddr = segments[i].virtual_address;
    load.p_paddr = segments[i].physical;
    load.p_filesz = segments[i].data.size();
    load.p_memsz = segments[i].memory_size;
    load.p_align = 1;
    file.insert(file.end(), segments[i].data.begin(), segments[i].data.end());
    std::memcpy(file.data() + sizeof(header) + i * sizeof(load), &load,
                sizeof(load));
  }
  return file;
}

std::vector<uint8_t> MakeVmlinux() {
  return MakeElf(LinuxLikeSegments(), 0x1000000);
}

std::vector<uint8_t> MakeBzImage(std::optional<Compression> compression,
                                 absl::Span<const uint8_t> elf) {
  constexpr size_t kSetup = 2 * 512;
  constexpr size_t kPayloadOffset = 64;
  std::vector<uint8_t> payload(elf.begin(), elf.end());
  if (compression) payload = Compress(*compression, elf);
  if (compression && *compression != Compression::kGzip) {
    payload.resize(payload.size() + 4);
    base::StoreLe<uint32_t>(payload.data() + payload.size() - 4,
                            static_cast<uint32_t>(elf.size()));
  }
  size_t code = base::AlignUp(kPayloadOffset + payload.size(), 16);
  std::vector<uint8_t> file(kSetup + code);
  uint8_t* at = file.data();
  at[0x1f1] = kSetup / 512 - 1;
  base::StoreLe<uint32_t>(at + 0x1f4, static_cast<uint32_t>(code / 16));
  base::StoreLe<uint16_t>(at + 0x1fe, 0xaa55);
  base::StoreLe<uint16_t>(at + 0x200, 0x6aeb);  // Jump to 0x26c, the end.
  std::memcpy(at + 0x202, "HdrS", 4);
  base::StoreLe<uint16_t>(at + 0x206, 0x20f);
  base::StoreLe<uint16_t>(at + 0x20e, 0x300 - 0x200);
  at[0x211] = 1;                                    // LOADED_HIGH
  base::StoreLe<uint32_t>(at + 0x22c, 0x7fffffff);  // initrd_addr_max
  base::StoreLe<uint32_t>(at + 0x230, 0x200000);    // kernel_alignment
  at[0x234] = 1;                                    // relocatable_kernel
  base::StoreLe<uint16_t>(at + 0x236, 3);           // 64-bit, above 4 GiB
  base::StoreLe<uint32_t>(at + 0x238, 2047);        // cmdline_size
  base::StoreLe<uint32_t>(at + 0x248, kPayloadOffset);
  base::StoreLe<uint32_t>(at + 0x24c, static_cast<uint32_t>(payload.size()));
  base::StoreLe<uint64_t>(at + 0x258, 0x1000000);  // pref_address
  base::StoreLe<uint32_t>(at + 0x260, 0x400000);   // init_size
  std::memcpy(at + 0x300, "6.1.0-fake (test)", 18);
  std::copy(payload.begin(), payload.end(), at + kSetup + kPayloadOffset);
  return file;
}

}  // namespace cloister::boot
