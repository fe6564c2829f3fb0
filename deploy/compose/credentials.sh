#!/bin/sh
# What the parts of the trial know each other by, made once:
#   credentials.sh CREDENTIALS ENVOY SNIPPETS
# CREDENTIALS is for certvoy, PostgreSQL and Pebble; ENVOY gets its client certificate and the files of SNIPPETS.
set -eu
umask 077
credentials=$1 envoy=$2 snippets=$3
[ ! -e "$credentials/complete" ] || exit 0

new_key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc"
issue() { # NAME SAN: a certificate for both ends of mutual TLS
    # shellcheck disable=SC2086 # the key's options are words
    openssl req -x509 $new_key -days 365 -CA "$credentials/ca.crt" -CAkey "$credentials/ca.key" \
        -subj "/CN=$1" -keyout "$credentials/$1.key" -out "$credentials/$1.crt" \
        -addext "subjectAltName=$2" -addext "basicConstraints=critical,CA:FALSE" \
        -addext "extendedKeyUsage=serverAuth,clientAuth"
}

# shellcheck disable=SC2086
openssl req -x509 $new_key -days 365 -subj "/CN=certvoy trial" \
    -keyout "$credentials/ca.key" -out "$credentials/ca.crt" -addext "keyUsage=critical,keyCertSign,cRLSign"
issue certvoy DNS:certvoy.example.com
issue pebble DNS:pebble,DNS:localhost
issue edge URI:spiffe://example.com/edge-1
rm "$credentials/ca.key"

head -c 32 /dev/urandom | base64 >"$credentials/kek"
password=$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')
printf %s "$password" >"$credentials/postgres-password"
printf %s "postgresql://certvoy:$password@postgres/certvoy" >"$credentials/database"

cp "$snippets"/*.yaml "$envoy/"
cp "$credentials/ca.crt" "$envoy/ca.crt"
mv "$credentials/edge.crt" "$envoy/tls.crt"
mv "$credentials/edge.key" "$envoy/tls.key"

# Each file for who reads it: 10001 is the image of certvoy, 101 that of Envoy; PostgreSQL and Pebble begin as root.
chmod 755 "$credentials" "$envoy"
chmod 644 "$credentials"/*.crt "$envoy"/*.crt "$envoy"/*.yaml
if [ "$(id -u)" = 0 ]; then
    chown 10001:10001 "$credentials/kek" "$credentials/database" "$credentials/certvoy.key"
    chown 101:101 "$envoy/tls.key"
fi
touch "$credentials/complete"
