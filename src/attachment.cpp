#include <dmaflow/attachment.hpp>

#include "attachment_node.hpp"

namespace dmaflow {

void AttachmentDomain::Node::end() noexcept {
  attachment->tear_down();
  live.store(false, std::memory_order_release);
  (previous == nullptr ? domain->nodes_ : previous->next) = next;
  if (next != nullptr) next->previous = previous;
  --domain->size_;
}

std::shared_ptr<AttachmentDomain> AttachmentDomain::create() {
  return std::shared_ptr<AttachmentDomain>(new AttachmentDomain);  // make_shared cannot call the private constructor
}

AttachmentDomain::~AttachmentDomain() = default;  // every live node holds the domain, so none is left

void AttachmentDomain::detach() noexcept {
  const std::lock_guard lock(mutex_);
  detached_ = true;
  while (nodes_ != nullptr) nodes_->end();
}

std::size_t AttachmentDomain::size() const noexcept {
  const std::lock_guard lock(mutex_);
  return size_;
}

}  // namespace dmaflow
