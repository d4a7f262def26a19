// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/elf.h"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::boot {
namespace {

using ::cloister::memory::GuestAddress;

// Linux has about five; a bound keeps the checks below cheap.
constexpr size_t kMaximumProgramHeaders = 128;

absl::Status Invalid(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat("ELF image: ", text));
}

// A program header that has been checked.
struct Load {
  ElfSegment segment;
  uint64_t virtual_address;
};

std::string MachineName(uint16_t machine) {
  switch (machine) {
    case EM_386:
      return "32-bit x86";
    case EM_AARCH64:
      return "arm64";
    case EM_ARM:
      return "32-bit arm";
    case EM_RISCV:
      return "RISC-V";
    case EM_PPC64:
      return "64-bit PowerPC";
    case EM_S390:
      return "s390";
    default:
      return absl::StrCat("machine number ", machine);
  }
}

absl::StatusOr<Elf64_Ehdr> ReadHeader(const SharedBytes& file) {
  if (file.size() < EI_NIDENT || std::memcmp(file.data(), ELFMAG, SELFMAG)) {
    return Invalid("no ELF header");
  }
  const uint8_t* ident = file.data();
  if (ident[EI_DATA] != ELFDATA2LSB) {
    return Invalid(
        "wrong architecture: not little-endian; the guest is x86-64");
  }
  // The machine number is at the same place in ELF32.
  if (file.size() < offsetof(Elf64_Ehdr, e_machine) + 2) {
    return Invalid("truncated header");
  }
  uint16_t machine =
      base::LoadLe<uint16_t>(ident + offsetof(Elf64_Ehdr, e_machine));
  if (ident[EI_CLASS] != ELFCLASS64 || machine != EM_X86_64) {
    return Invalid(
        absl::StrCat("wrong architecture: built for ", MachineName(machine),
                     ident[EI_CLASS] == ELFCLASS64 ? "" : ", not a 64-bit file",
                     "; the guest is x86-64"));
  }
  if (file.size() < sizeof(Elf64_Ehdr)) return Invalid("truncated header");
  Elf64_Ehdr header;
  std::memcpy(&header, file.data(), sizeof(header));
  if (ident[EI_VERSION] != EV_CURRENT || header.e_version != EV_CURRENT) {
    return Invalid("unknown ELF version");
  }
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN) {
    return Invalid(absl::StrCat("not an executable (type ", header.e_type,
                                "; an object file or a core dump?)"));
  }
  return header;
}

absl::StatusOr<std::vector<Elf64_Phdr>> ReadProgramHeaders(
    const SharedBytes& file, const Elf64_Ehdr& header) {
  if (header.e_phnum == 0) return Invalid("no program headers");
  if (header.e_phnum > kMaximumProgramHeaders) {
    return Invalid(absl::StrCat(header.e_phnum, " program headers, more than ",
                                kMaximumProgramHeaders));
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr)) {
    return Invalid(
        absl::StrCat("program headers of ", header.e_phentsize, " bytes"));
  }
  std::optional<SharedBytes> table =
      file.Slice(header.e_phoff, header.e_phnum * sizeof(Elf64_Phdr));
  if (!table) return Invalid("truncated: the program headers lie outside");
  std::vector<Elf64_Phdr> headers(header.e_phnum);
  std::memcpy(headers.data(), table->data(), table->size());
  return headers;
}

absl::StatusOr<Load> ReadSegment(const SharedBytes& file, size_t index,
                                 const Elf64_Phdr& header) {
  std::string name = absl::StrCat("segment ", index);
  if (header.p_memsz < header.p_filesz) {
    return Invalid(absl::StrCat(name, " has ", header.p_filesz,
                                " bytes in the file but ", header.p_memsz,
                                " in memory"));
  }
  if (header.p_align > 1 &&
      (!base::IsPowerOfTwo(header.p_align) ||
       !base::IsAligned(header.p_vaddr - header.p_offset, header.p_align))) {
    return Invalid(absl::StrCat(name, " is not aligned to 0x",
                                absl::Hex(header.p_align), " as it says"));
  }
  if (!memory::GuestRange::Create(GuestAddress(header.p_paddr), header.p_memsz)
           .ok()) {
    return Invalid(absl::StrCat(name, " of 0x", absl::Hex(header.p_memsz),
                                " bytes at 0x", absl::Hex(header.p_paddr),
                                " wraps the address space"));
  }
  std::optional<SharedBytes> data =
      file.Slice(header.p_offset, header.p_filesz);
  if (!data) {
    return Invalid(absl::StrCat("truncated: ", name, " ends at byte ",
                                header.p_offset, "+", header.p_filesz, " of ",
                                file.size()));
  }
  return Load{{GuestAddress(header.p_paddr), *std::move(data), header.p_memsz},
              header.p_vaddr};
}

absl::StatusOr<std::vector<Load>> ReadSegments(const SharedBytes& file,
                                               const Elf64_Ehdr& header) {
  ASSIGN_OR_RETURN(std::vector<Elf64_Phdr> headers,
                   ReadProgramHeaders(file, header));
  std::vector<Load> loads;
  for (size_t i = 0; i < headers.size(); ++i) {
    if (headers[i].p_type == PT_INTERP) {
      return Invalid("a program that needs a dynamic linker, not a kernel");
    }
    if (headers[i].p_type == PT_TLS) {
      return Invalid("a program with thread-local storage, not a kernel");
    }
    bool empty = headers[i].p_memsz == 0 && headers[i].p_filesz == 0;
    if (headers[i].p_type != PT_LOAD || empty) continue;
    ASSIGN_OR_RETURN(Load load, ReadSegment(file, i, headers[i]));
    loads.push_back(std::move(load));
  }
  if (loads.empty()) return Invalid("nothing to load, not a kernel");
  std::sort(loads.begin(), loads.end(), [](const Load& a, const Load& b) {
    return a.segment.gpa < b.segment.gpa;
  });
  for (size_t i = 1; i < loads.size(); ++i) {
    const ElfSegment& below = loads[i - 1].segment;
    uint64_t distance = loads[i].segment.gpa.value() - below.gpa.value();
    if (below.memory_size > distance) {
      return Invalid(absl::StrCat("the segments at ", below.gpa.ToString(),
                                  " and ", loads[i].segment.gpa.ToString(),
                                  " overlap"));
    }
  }
  return loads;
}

// Linux's entry is a physical address although the header wants a virtual one.
absl::StatusOr<GuestAddress> FindEntry(const std::vector<Load>& loads,
                                       uint64_t entry) {
  for (const Load& load : loads) {
    std::optional<uint64_t> offset =
        GuestAddress(entry).OffsetFrom(load.segment.gpa);
    if (offset && *offset < load.segment.data.size()) {
      return GuestAddress(entry);
    }
  }
  for (const Load& load : loads) {
    if (entry >= load.virtual_address &&
        entry - load.virtual_address < load.segment.data.size()) {
      return GuestAddress(load.segment.gpa.value() +
                          (entry - load.virtual_address));
    }
  }
  return Invalid(absl::StrCat("the entry point 0x", absl::Hex(entry),
                              " lies in no segment"));
}

}  // namespace

absl::StatusOr<ElfKernel> ParseElfKernel(const SharedBytes& file) {
  ASSIGN_OR_RETURN(Elf64_Ehdr header, ReadHeader(file));
  ASSIGN_OR_RETURN(std::vector<Load> loads, ReadSegments(file, header));
  ElfKernel kernel;
  ASSIGN_OR_RETURN(kernel.entry, FindEntry(loads, header.e_entry));
  for (Load& load : loads) kernel.segments.push_back(std::move(load.segment));
  return kernel;
}

}  // namespace cloister::boot
