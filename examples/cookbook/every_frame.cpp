// every_frame: a decoder fills 100 frames as fast as an analysis takes them, and none is lost.
#include <dmaflow/dmaflow.hpp>

#include <iostream>
#include <thread>

int main() try {
  dmaflow::StreamConfig stream;
  stream.layout = dmaflow::Layout::linear(dmaflow::formats::nv12, {640, 480}).value();
  const auto decoder = dmaflow::AppSource::create({stream}, {.name = "decoder"}).value();
  std::uint64_t analysed = 0;
  const auto analysis = dmaflow::FunctionSink::create([&](const dmaflow::Frame&) -> dmaflow::Result<void> {
                          std::this_thread::sleep_for(std::chrono::milliseconds(2));  // it is slower than the decoder
                          ++analysed;
                          return {};  // the frame goes back to its source here; keep it to hold it longer
                        }).value();
  const auto memory = dmaflow::open_system_memory().value();
  dmaflow::Pipeline pipeline;
  pipeline.offer(*memory);
  pipeline.connect(*decoder, *analysis, "analysis", {.policy = dmaflow::Policy::wait_when_full}).value();
  pipeline.start().value();

  std::thread thread([&] {
    for (int i = 0; i < 100; ++i) {
      auto frame = decoder->acquire(dmaflow::Deadline::after(std::chrono::seconds(5)));
      if (!frame || !decoder->push(std::move(*frame))) break;  // decode into it between the two
    }
    decoder->end();
  });
  pipeline.run().value();  // until the decoder has ended and its last frame was delivered
  thread.join();
  std::cout << analysed << " of 100 frames analysed\n";
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
