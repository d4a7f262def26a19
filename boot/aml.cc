// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/aml.h"

#include <cstddef>

#include "absl/strings/ascii.h"

namespace cloister::boot::aml {
namespace {

// Opcodes (section 20.3).
constexpr uint8_t kZeroOp = 0x00;
constexpr uint8_t kOneOp = 0x01;
constexpr uint8_t kNameOp = 0x08;
constexpr uint8_t kBytePrefix = 0x0a;
constexpr uint8_t kWordPrefix = 0x0b;
constexpr uint8_t kDWordPrefix = 0x0c;
constexpr uint8_t kStringPrefix = 0x0d;
constexpr uint8_t kQWordPrefix = 0x0e;
constexpr uint8_t kScopeOp = 0x10;
constexpr uint8_t kBufferOp = 0x11;
constexpr uint8_t kPackageOp = 0x12;
constexpr uint8_t kExtOpPrefix = 0x5b;
constexpr uint8_t kDeviceOp = 0x82;

// Flags of address space descriptors: both ends fixed, positive decode.
constexpr uint8_t kFixedWindow = 0x0c;
constexpr uint8_t kConsumer = 0x01;

void Append(Code* out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) {
    out->push_back(static_cast<uint8_t>(value >> (8 * i)));
  }
}

void Append(Code* out, const Code& code) {
  out->insert(out->end(), code.begin(), code.end());
}

void Append(Code* out, absl::string_view text) {
  out->insert(out->end(), text.begin(), text.end());
}

// PkgLength (section 20.2.4) counts itself.
Code WithLength(const Code& body) {
  Code out;
  if (body.size() + 1 < 64) {
    out.push_back(static_cast<uint8_t>(body.size() + 1));
  } else {
    // 4 bits in the lead byte, 8 in each of the following ones.
    int following = 1;
    while (body.size() + 1 + following >= size_t{1} << (4 + 8 * following)) {
      ++following;
    }
    size_t length = body.size() + 1 + following;
    out.push_back(static_cast<uint8_t>(following << 6 | (length & 0xf)));
    Append(&out, length >> 4, following);
  }
  Append(&out, body);
  return out;
}

// Address space descriptors differ in the width of their five numbers.
Code AddressSpace(uint8_t tag, int width, uint8_t type, uint8_t flags,
                  uint8_t type_flags, uint64_t first, uint64_t last) {
  Code out = {tag};
  Append(&out, static_cast<uint64_t>(3 + 5 * width), 2);
  out.push_back(type);
  out.push_back(flags);
  out.push_back(type_flags);
  Append(&out, 0, width);  // Granularity.
  Append(&out, first, width);
  Append(&out, last, width);
  Append(&out, 0, width);  // Translation offset.
  Append(&out, last - first + 1, width);
  return out;
}

}  // namespace

Code Concat(std::initializer_list<Code> parts) {
  Code out;
  for (const Code& part : parts) Append(&out, part);
  return out;
}

Code Integer(uint64_t value) {
  Code out;
  if (value == 0) return {kZeroOp};
  if (value == 1) return {kOneOp};
  if (value <= UINT8_MAX) {
    out.push_back(kBytePrefix);
    Append(&out, value, 1);
  } else if (value <= UINT16_MAX) {
    out.push_back(kWordPrefix);
    Append(&out, value, 2);
  } else if (value <= UINT32_MAX) {
    out.push_back(kDWordPrefix);
    Append(&out, value, 4);
  } else {
    out.push_back(kQWordPrefix);
    Append(&out, value, 8);
  }
  return out;
}

Code String(absl::string_view text) {
  Code out = {kStringPrefix};
  Append(&out, text);
  out.push_back(0);
  return out;
}

Code EisaId(absl::string_view id) {
  auto letter = [&](size_t i) { return static_cast<uint32_t>(id[i] - 0x40); };
  auto digit = [&](size_t i) {
    return static_cast<uint32_t>(absl::ascii_isdigit(id[i]) ? id[i] - '0'
                                                            : id[i] - 'A' + 10);
  };
  uint32_t big_endian = letter(0) << 26 | letter(1) << 21 | letter(2) << 16 |
                        digit(3) << 12 | digit(4) << 8 | digit(5) << 4 |
                        digit(6);
  Code out = {kDWordPrefix};
  Append(&out, __builtin_bswap32(big_endian), 4);
  return out;
}

Code Package(const std::vector<Code>& elements) {
  Code body = {static_cast<uint8_t>(elements.size())};
  for (const Code& element : elements) Append(&body, element);
  return Concat({{kPackageOp}, WithLength(body)});
}

Code Name(absl::string_view name, const Code& value) {
  Code out = {kNameOp};
  Append(&out, name);
  Append(&out, value);
  return out;
}

Code Scope(absl::string_view name, const Code& body) {
  Code inner;
  Append(&inner, name);
  Append(&inner, body);
  return Concat({{kScopeOp}, WithLength(inner)});
}

Code Device(absl::string_view name, const Code& body) {
  Code inner;
  Append(&inner, name);
  Append(&inner, body);
  return Concat({{kExtOpPrefix, kDeviceOp}, WithLength(inner)});
}

Code ResourceTemplate(const Code& descriptors) {
  // The end tag; a checksum of 0 counts as correct.
  Code bytes = Concat({descriptors, {0x79, 0x00}});
  return Concat(
      {{kBufferOp}, WithLength(Concat({Integer(bytes.size()), bytes}))});
}

Code Io(uint16_t port, uint8_t length) {
  Code out = {0x47, 0x01};
  Append(&out, port, 2);
  Append(&out, port, 2);
  out.push_back(1);
  out.push_back(length);
  return out;
}

Code Irq(uint8_t irq) {
  Code out = {0x22};
  Append(&out, uint64_t{1} << irq, 2);
  return out;
}

Code Interrupt(uint32_t gsi, bool level) {
  uint8_t flags = static_cast<uint8_t>(kConsumer | (level ? 0 : 1 << 1));
  Code out = {0x89, 0x06, 0x00, flags, 1};
  Append(&out, gsi, 4);
  return out;
}

Code Memory32(uint32_t base, uint32_t length) {
  Code out = {0x86, 0x09, 0x00, 0x01};
  Append(&out, base, 4);
  Append(&out, length, 4);
  return out;
}

Code BusRange(uint8_t first, uint8_t last) {
  return AddressSpace(0x88, 2, /*type=*/2, kFixedWindow, 0, first, last);
}

Code IoWindow(uint16_t first, uint16_t last) {
  return AddressSpace(0x88, 2, /*type=*/1, kFixedWindow, /*EntireRange=*/3,
                      first, last);
}

Code MemoryRange(uint64_t first, uint64_t last, bool producer) {
  uint8_t flags =
      static_cast<uint8_t>(kFixedWindow | (producer ? 0 : kConsumer));
  bool narrow = last <= UINT32_MAX;
  return AddressSpace(narrow ? 0x87 : 0x8a, narrow ? 4 : 8, /*type=*/0, flags,
                      /*ReadWrite=*/1, first, last);
}

}  // namespace cloister::boot::aml
