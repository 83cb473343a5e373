// The entry that joins a buffer and a device: in the buffer's list for good, in the domain's while it lives.
#pragma once

#include <dmaflow/attachment.hpp>

#include <atomic>
#include <memory>

namespace dmaflow {

struct AttachmentDomain::Node {
  std::shared_ptr<AttachmentDomain> domain;
  std::unique_ptr<Attachment> attachment;
  std::atomic<bool> live{true};  // written under the domain's mutex
  Node* next_in_buffer = nullptr;
  Node* previous = nullptr;  // these two in the domain's list, under its mutex
  Node* next = nullptr;

  /// Tears down and unlinks from the domain, whose mutex the caller holds.
  void end() noexcept;
};

}  // namespace dmaflow
