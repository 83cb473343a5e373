// Parses arbitrary bytes as a datagram of the connector: the parsers stay within them and terminate.
#include <dmaflow/connector_message.hpp>
#include <dmaflow/process_events.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

// The first byte of the input says whether the datagram was truncated; the rest is the datagram.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dmaflow::connector;
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data + 1, size - 1));
  MessageReader reader(bytes, {}, (data[0] & 1U) != 0);
  std::size_t total = 0;
  while (const auto message = reader.next()) {
    total += 20 + message->payload.size();
    if (total > bytes.size()) std::abort();
    unsigned sum = 0;
    for (const std::byte byte : message->payload) sum += static_cast<unsigned>(byte);
    if (const auto event = PayloadTraits<ProcessEvent>::parse(message->payload)) {
      if (const auto* name = event->as<NameChange>()) sum += static_cast<unsigned>(name->name().size());
      if (const auto* exit = event->as<Exit>()) sum += static_cast<unsigned>(exit->code().value_or(exit->signal()));
    }
    volatile unsigned sink = sum;
    (void)sink;
  }
  if (reader.end() == MessageReader::End::truncated && (data[0] & 1U) == 0) std::abort();
  return 0;
}
