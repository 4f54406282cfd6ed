"""Hardware: integer programs as netlists of adders, as Verilog, simulated, synthesised and priced.

Modules, from program to silicon: `netlist` (the data structure and its meaning), `adder_graph` (the one adapter to
da4ml), `trace` (program to netlist), `pipeline` (register stages), `verilog` (text), `simulate` (iverilog), `synth`
(yosys, nextpnr), `estimate` (what a program takes, per layer), `limits` (refusal of what is too large), `devices`
(parts), `costs` (what layers cost at a width, for `allocate`). External programs are found by `tools`.
"""
