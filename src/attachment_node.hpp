// The entry that links a buffer and a device. It stays in the buffer's list for good, and in the domain's list while it
// is live.
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
  Node* previous = nullptr;  // this and next: in the domain's list, under its mutex
  Node* next = nullptr;

  /// Tears down the attachment and unlinks it from the domain. The caller holds the domain's mutex.
  void end() noexcept;
};

}  // namespace dmaflow
