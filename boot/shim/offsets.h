// SPDX-License-Identifier: Apache-2.0
//
// The numbers of layout.h that start.S needs, for the assembler. shim.cc
// asserts that they are the same.
#ifndef CLOISTER_BOOT_SHIM_OFFSETS_H_
#define CLOISTER_BOOT_SHIM_OFFSETS_H_

#define SHIM_PRIVATE_ENTRY 0x10
#define SHIM_DIGEST_SLOT 0x20
#define SHIM_DIGEST_SIZE 32
#define SHIM_STACK_END 0x13000
#define SHIM_CODE_SELECTOR 0x10
#define SHIM_DATA_SELECTOR 0x18

#endif  // CLOISTER_BOOT_SHIM_OFFSETS_H_
